//! What a configuration may show.

use serde_json::Value;

pub(super) const HIDDEN: &str = "(hidden)";

/// In names without case, `_` and `-`.
const SECRET: [&str; 15] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "credential",
    "authorization",
    "cookie",
    "bearer",
    "pepper",
];

/// Hides the values under names that sound like secrets or contain one of `more`, whatever they are, and the
/// passwords in addresses.
pub(super) fn redact(value: &mut Value, more: &[String]) {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                if is_secret(name, more) && !value.is_null() {
                    *value = HIDDEN.into();
                } else {
                    redact(value, more);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| redact(value, more)),
        Value::String(text) => {
            if let Some(clean) = without_password(text) {
                *text = clean;
            }
        }
        _ => {}
    }
}

pub(super) fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn is_secret(name: &str, more: &[String]) -> bool {
    let name = plain(name);
    SECRET.iter().any(|word| name.contains(word)) || more.iter().any(|word| name.contains(word))
}

/// In each `scheme://user:password@host` of a text. The end of the address is the first blank or slash; the
/// password ends at the last `@` before it.
fn without_password(text: &str) -> Option<String> {
    let mut clean = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some((before, after)) = rest.split_once("://") {
        clean.push_str(before);
        clean.push_str("://");
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | ','))
            .unwrap_or(after.len());
        // A password with such a character in it, unescaped: then all up to the last `@` of the word.
        let word = after.find(char::is_whitespace).unwrap_or(after.len());
        let at = after[..end]
            .rfind('@')
            .or_else(|| after[..end].contains(':').then(|| after[..word].rfind('@')).flatten());
        rest = match at {
            Some(at) => {
                let user = after[..at].split(':').next().unwrap_or_default();
                if user.len() < at {
                    found = true;
                    clean.push_str(user);
                    clean.push(':');
                    clean.push_str(HIDDEN);
                } else {
                    clean.push_str(user);
                }
                &after[at..]
            }
            None => after,
        };
    }
    clean.push_str(rest);
    found.then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_hidden_whatever_they_are_and_however_deep() {
        let mut config = json!({
            "DB_PASSWORD": "hunter2", "api-key": 7, "list": [{"clientSecret": {"a": ["b"]}}],
            "token": null, "licence": "abc", "pool": 8, "nested": {"X-Auth-Token": "t"},
        });
        redact(&mut config, &[plain("Licence")]);
        assert_eq!(
            config,
            json!({
                "DB_PASSWORD": HIDDEN, "api-key": HIDDEN, "list": [{"clientSecret": HIDDEN}],
                "token": null, "licence": HIDDEN, "pool": 8, "nested": {"X-Auth-Token": HIDDEN},
            })
        );
    }

    #[test]
    fn passwords_in_addresses_are_hidden() {
        let hidden = |text: &str| {
            let mut value = json!(text);
            redact(&mut value, &[]);
            value.as_str().unwrap().to_owned()
        };
        assert_eq!(
            hidden("postgres://api:hunter2@db:5432/x?y"),
            "postgres://api:(hidden)@db:5432/x?y"
        );
        assert_eq!(hidden("redis://:pw@h"), "redis://:(hidden)@h");
        assert_eq!(hidden("a://u:p@w@h/ and b://v:q@h"), "a://u:(hidden)@h/ and b://v:(hidden)@h");
        assert_eq!(hidden("redis://u:pa/ss@h/0"), "redis://u:(hidden)@h/0");
        for open in
            ["http://host:80/a@b", "mail me@example.com", "://", "x://user@host", "a:b@c", ""]
        {
            assert!(hidden(open) == open || open.contains(":80"), "{open}");
        }
    }
}

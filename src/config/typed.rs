//! A user's type from a tree, with key and origin in every error.

use std::cell::RefCell;
use std::fmt;

use ::config_rs::{Value, ValueKind};
use serde::de::value::{MapDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer,
    MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::fields::ROOT;
use super::problem::{Problem, ProblemKind};
use super::read::{flag, join};
use super::schema::nearest;
use super::units;
use super::value::{HIDDEN, is_secret, origin, shown, sorted, to_json};

pub(super) fn read<T: DeserializeOwned>(
    value: &Value,
    path: &str,
    root: bool,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let found = RefCell::new(Vec::new());
    let node = Node { value, path: path.to_owned(), root, found: &found };
    let result = T::deserialize(node);
    problems.append(&mut found.borrow_mut());
    match result {
        Ok(value) => Some(value),
        Err(Fail(problem)) => {
            problems.push(*problem);
            None
        }
    }
}

struct Node<'a> {
    value: &'a Value,
    path: String,
    root: bool,
    found: &'a RefCell<Vec<Problem>>,
}

/// The first value that did not fit. Until a node has put its name on it, key and origin are empty.
#[derive(Debug)]
struct Fail(Box<Problem>);

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fail {}

impl serde::de::Error for Fail {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Box::new(Problem::new(ProblemKind::WrongType, "", "", "", message.to_string())))
    }

    fn invalid_type(_: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::custom(expected)
    }

    fn invalid_value(_: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::custom(expected)
    }

    fn missing_field(field: &'static str) -> Self {
        let mut fail = Self::custom(format_args!("the key {field:?}"));
        fail.0.kind = ProblemKind::Missing;
        fail
    }
}

impl<'a> Node<'a> {
    fn child(&self, key: &str, value: &'a Value) -> Self {
        Node { value, path: join(&self.path, key), root: false, found: self.found }
    }

    fn named(&self, mut fail: Fail) -> Fail {
        if fail.0.origin.is_empty() {
            fail.0.origin = origin(self.value).to_owned();
            fail.0.key = self.path.clone();
            fail.0.value = match (fail.0.kind, &self.value.kind) {
                (ProblemKind::Missing, _) => "incomplete".to_owned(),
                (_, ValueKind::Table(_)) => "a table".to_owned(),
                _ => shown(&self.path, &to_json(self.value)),
            };
            let hidden = fail.0.value.contains(HIDDEN) || is_secret(&self.path);
            if hidden && fail.0.kind != ProblemKind::Missing {
                // The type's own message may quote the value.
                fail.0.expected = "a value that fits".to_owned();
            }
        }
        fail
    }

    fn lenient(&self) -> Option<&'a str> {
        let origin = origin(self.value);
        match &self.value.kind {
            ValueKind::String(text) if origin.starts_with("variable ") || origin == "argument" => {
                Some(text.trim())
            }
            _ => None,
        }
    }

    fn any<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Fail> {
        let result = match &self.value.kind {
            ValueKind::Nil => visitor.visit_unit(),
            ValueKind::Boolean(flag) => visitor.visit_bool(*flag),
            ValueKind::I64(n) => visitor.visit_i64(*n),
            ValueKind::U64(n) => visitor.visit_u64(*n),
            ValueKind::I128(n) => visitor.visit_i128(*n),
            ValueKind::U128(n) => visitor.visit_u128(*n),
            ValueKind::Float(n) => visitor.visit_f64(*n),
            ValueKind::String(text) => visitor.visit_str(text),
            ValueKind::Array(list) => {
                visitor.visit_seq(Seq { node: self, items: list.iter().enumerate() })
            }
            ValueKind::Table(table) => visitor.visit_map(Entries::new(self, sorted(table))),
        };
        result.map_err(|fail| self.named(fail))
    }
}

/// Numbers and flags that came as text are read as such.
macro_rules! scalar {
    ($($method:ident $visit:ident $parse:expr),+ $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
            match self.lenient().and_then($parse) {
                Some(value) => visitor.$visit(value).map_err(|fail| self.named(fail)),
                None => self.any(visitor),
            }
        })+
    };
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Fail;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.any(visitor)
    }

    scalar! {
        deserialize_bool visit_bool flag,
        deserialize_i8 visit_i8 |text| text.parse().ok(),
        deserialize_i16 visit_i16 |text| text.parse().ok(),
        deserialize_i32 visit_i32 |text| text.parse().ok(),
        deserialize_i64 visit_i64 |text| text.parse().ok(),
        deserialize_u8 visit_u8 |text| text.parse().ok(),
        deserialize_u16 visit_u16 |text| text.parse().ok(),
        deserialize_u32 visit_u32 |text| text.parse().ok(),
        deserialize_u64 visit_u64 |text| text.parse().ok(),
        deserialize_f32 visit_f64 units::number,
        deserialize_f64 visit_f64 units::number,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        match self.value.kind {
            ValueKind::Nil => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fail> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fail> {
        if name == "Duration" && fields == ["secs", "nanos"] {
            return self.duration(visitor);
        }
        let ours = |key: &str| self.root && ROOT.iter().any(|field| field.key == key);
        if let ValueKind::Table(table) = &self.value.kind {
            for (key, value) in sorted(table) {
                if !fields.contains(&key.as_str()) && !ours(key) {
                    let known = ROOT.iter().map(|field| field.key).filter(|_| self.root);
                    let known = fields.iter().copied().chain(known);
                    let expected = match nearest(key, known.clone()) {
                        Some(near) => format!("{near:?}"),
                        None => format!("one of {}", known.collect::<Vec<_>>().join(", ")),
                    };
                    self.found.borrow_mut().push(Problem::new(
                        ProblemKind::UnknownKey,
                        join(&self.path, key),
                        "unknown key",
                        origin(value),
                        expected,
                    ));
                }
            }
        }
        // Null is as if nothing had been said.
        let said = match &self.value.kind {
            ValueKind::Nil => Vec::new(),
            ValueKind::Table(table) => sorted(table),
            _ => return self.any(visitor),
        };
        let said = said.into_iter().filter(|(_, value)| !matches!(value.kind, ValueKind::Nil));
        visitor.visit_map(Entries::new(&self, said.collect())).map_err(|fail| self.named(fail))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fail> {
        let result = match &self.value.kind {
            ValueKind::String(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            ValueKind::Table(table) if table.len() == 1 => match table.iter().next() {
                Some((key, value)) => {
                    visitor.visit_enum(Variant { key, node: self.child(key, value) })
                }
                None => Err(Fail::custom("a variant")),
            },
            _ => Err(Fail::custom("a variant: its name, or a table with its name as the one key")),
        };
        result.map_err(|fail| self.named(fail))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier ignored_any
    }
}

impl Node<'_> {
    fn duration<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        #[expect(clippy::cast_precision_loss, reason = "a number of seconds")]
        let seconds = match &self.value.kind {
            ValueKind::I64(n) => Some(*n as f64),
            ValueKind::U64(n) => Some(*n as f64),
            ValueKind::Float(n) => Some(*n),
            ValueKind::String(text) => units::seconds(text),
            ValueKind::Table(_) => return self.any(visitor),
            _ => None,
        };
        let time = seconds.and_then(|s| std::time::Duration::try_from_secs_f64(s).ok());
        let Some(time) = time else {
            let expected = "a time: seconds, or a text such as \"250ms\" or \"1m 30s\"";
            return Err(self.named(Fail::custom(expected)));
        };
        let parts = [("secs", time.as_secs()), ("nanos", u64::from(time.subsec_nanos()))];
        visitor.visit_map(MapDeserializer::new(parts.into_iter()))
    }
}

struct Seq<'n, 'a, I> {
    node: &'n Node<'a>,
    items: I,
}

impl<'de, 'a, I: Iterator<Item = (usize, &'a Value)>> SeqAccess<'de> for Seq<'_, 'a, I> {
    type Error = Fail;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fail> {
        let Some((n, value)) = self.items.next() else { return Ok(None) };
        let (path, found) = (format!("{}[{n}]", self.node.path), self.node.found);
        seed.deserialize(Node { value, path, root: false, found }).map(Some)
    }
}

struct Entries<'n, 'a> {
    node: &'n Node<'a>,
    entries: std::vec::IntoIter<(&'a String, &'a Value)>,
    value: Option<Node<'a>>,
}

impl<'n, 'a> Entries<'n, 'a> {
    fn new(node: &'n Node<'a>, entries: Vec<(&'a String, &'a Value)>) -> Self {
        Self { node, entries: entries.into_iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Fail;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fail> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let node = self.node.child(key, value);
        let read =
            seed.deserialize(StrDeserializer::new(key)).map_err(|fail: Fail| node.named(fail));
        self.value = Some(node);
        read.map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fail> {
        match self.value.take() {
            Some(node) => {
                let (value, path, found) = (node.value, node.path.clone(), node.found);
                seed.deserialize(node)
                    .map_err(|fail| Node { value, path, root: false, found }.named(fail))
            }
            None => Err(Fail::custom("a value")),
        }
    }
}

struct Variant<'a> {
    key: &'a str,
    node: Node<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fail;
    type Variant = Node<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Node<'a>), Fail> {
        let name = seed.deserialize(StrDeserializer::<Fail>::new(self.key))?;
        Ok((name, self.node))
    }
}

impl<'de> VariantAccess<'de> for Node<'_> {
    type Error = Fail;

    fn unit_variant(self) -> Result<(), Fail> {
        serde::Deserialize::deserialize(self)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fail> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fail> {
        self.any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fail> {
        self.deserialize_struct("", fields, visitor)
    }
}

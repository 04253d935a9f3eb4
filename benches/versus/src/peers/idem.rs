//! axum-idempotent, as its documentation shows: keys from the header field, in a session in memory. And with
//! its default, which makes the key of the request; and with a session for each key, where it has the least to
//! look through.

use std::sync::Arc;

use axum::Router;
use axum_idempotent::{IdempotentLayer, IdempotentOptions};
use ruts::store::moka::MokaStore;
use ruts::{CookieOptions, SessionLayer};
use tower_cookies::CookieManagerLayer;

use crate::Case;
use crate::case::Runner;
use crate::idem::{self, Caller, HELD, Key, Made, Session, case, held};

/// Room for so many sessions as no case has. Its default is 10,000.
const SESSIONS: u64 = 1 << 24;

fn layered(options: Option<IdempotentOptions>, router: &Router) -> Router {
    let store = Arc::new(MokaStore::builder().max_capacity(SESSIONS).build());
    let router = match options {
        Some(options) => router.clone().layer(IdempotentLayer::<MokaStore>::new(options)),
        None => router.clone(),
    };
    let sessions =
        SessionLayer::new(store).with_cookie_options(CookieOptions::build().name("session"));
    router.layer(sessions).layer(CookieManagerLayer::new())
}

fn by_header(required: bool) -> IdempotentOptions {
    IdempotentOptions::default()
        .use_idempotency_key_header(Some("Idempotency-Key"), required)
        .expire_after(60 * 60)
}

/// The peer's modes of [`crate::idem::app`].
pub(crate) fn app(who: &str, router: &Router) -> Option<(Router, Session)> {
    Some(match who {
        "session layers" => (layered(None, router), Session::One),
        "axum-idempotent" => (layered(Some(by_header(false)), router), Session::One),
        "axum-idempotent, session each" => (layered(Some(by_header(false)), router), Session::Each),
        "axum-idempotent, hash" => (
            layered(Some(IdempotentOptions::default().expire_after(60 * 60)), router),
            Session::One,
        ),
        _ => return None,
    })
}

fn holding(session: Session) -> impl Fn(u64) -> Made + Clone + Send {
    move |keys| {
        Box::pin(async move {
            let router = Router::new().route(idem::PATH, idem::handler());
            let app = layered(Some(by_header(true)), &router);
            let mut caller = Caller::new(app, Key::Fresh, session);
            let filled = caller.run(keys).await;
            assert!(filled == keys, "{filled} of {keys}");
            caller
        })
    }
}

pub fn cases() -> Vec<Case> {
    let mut all = vec![
        case("post", "session layers", Key::Fresh),
        case("post without key", "axum-idempotent", Key::None),
        case("replay", "axum-idempotent", Key::Same),
        case("replay", "axum-idempotent, hash", Key::Same),
        case("fresh", "axum-idempotent, session each", Key::Fresh),
    ];
    for (label, keys) in HELD {
        let each = held("axum-idempotent, session each", label, keys, holding(Session::Each));
        // Every key is looked at for every new one: to put a million there takes more than half an hour.
        if keys <= 100_000 {
            let one = held("axum-idempotent", label, keys, holding(Session::One));
            let one = if keys > 1_000 { one.not_emulated() } else { one };
            all.push(if keys > 10_000 { one.slow() } else { one });
        }
        let each = if keys > 10_000 { each.not_emulated() } else { each };
        all.push(if keys > 100_000 { each.slow() } else { each });
    }
    all
}

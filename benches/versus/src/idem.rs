//! Idempotency layers in an axum `Router`, called as a server calls it: what all of them share. The same POST,
//! with a key and a small JSON body, goes to each; the peer's also has the cookie of a session, without which
//! it does nothing. Ours are in `us`, the peer's in `peers`.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{CONTENT_TYPE, COOKIE};
use axum::http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, RouterIntoService, post};
use tower::ServiceExt;

use crate::case::{Batch, Callers, Case, Expect, Runner};
use crate::http::{Identity, is_success};

pub const PATH: &str = "/payments";
pub const ASKED: &str = r#"{"account":"8e03978e","cents":1000,"currency":"EUR","for":"tea"}"#;
pub const ANSWERED: &str = r#"{"id":"8e03978e-40d5-43dd-bc93-6894a57f9324","status":"paid"}"#;
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What stands behind the layers: reads the body, answers 201 with a small one.
pub fn handler() -> MethodRouter {
    async fn pay(body: Bytes) -> impl IntoResponse {
        std::hint::black_box(body);
        (StatusCode::CREATED, [(CONTENT_TYPE, JSON)], ANSWERED)
    }
    post(pay)
}

/// Which key a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    None,
    /// Always the same.
    Same,
    /// Never the same.
    Fresh,
}

/// Whose session a request belongs to, for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    None,
    /// All requests are of one client.
    One,
    /// Each key is of another client.
    Each,
}

/// Digits that look drawn, in the form of a UUID.
fn key(number: u64) -> [u8; 36] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let number = number.wrapping_add(1);
    let high = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bits =
        (u128::from(high) << 64) | u128::from(number.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let mut text = [b'-'; 36];
    for (place, digit) in text.iter_mut().enumerate() {
        if !matches!(place, 8 | 13 | 18 | 23) {
            *digit = DIGITS[(bits >> 124) as usize];
            bits <<= 4;
        }
    }
    text
}

/// A session's cookie: the name that the peer's example gives it, and an identifier as ruts reads it.
fn cookie(number: u64) -> [u8; 30] {
    let mut text = *b"session=AAAAAAAAAAAAAAAAAAAAAA";
    let digits = key(number);
    text[8..16].copy_from_slice(&digits[..8]);
    text[16..20].copy_from_slice(&digits[9..13]);
    text[20..24].copy_from_slice(&digits[14..18]);
    text
}

pub fn request(number: u64, with: Key, session: Session) -> Request<Body> {
    let mut request = Request::new(Body::from(ASKED));
    *request.method_mut() = axum::http::Method::POST;
    *request.uri_mut() = axum::http::Uri::from_static(PATH);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    let number = if with == Key::Same { 0 } else { number };
    if with != Key::None {
        let value = HeaderValue::from_bytes(&key(number)).expect("visible ASCII");
        headers.insert(KEY, value);
    }
    if session != Session::None {
        let number = if session == Session::One { 0 } else { number };
        headers.insert(COOKIE, HeaderValue::from_bytes(&cookie(number)).expect("visible ASCII"));
    }
    request
}

/// What a server runs, by name; with the sessions that it asks for.
pub fn app(who: &str, handler: MethodRouter) -> Option<(Router, Session)> {
    let router = Router::new().route(PATH, handler);
    if let Some(ours) = crate::us::idem::app(who, &router) {
        return Some((ours, Session::None));
    }
    if let Some(theirs) = crate::peers::idem::app(who, &router) {
        return Some(theirs);
    }
    Some(match who {
        "plain" => (router, Session::None),
        "identity" => (router.layer(tower::layer::layer_fn(Identity)), Session::None),
        _ => return None,
    })
}

/// One client of an app.
pub struct Caller {
    service: RouterIntoService<Body>,
    with: Key,
    session: Session,
    next: u64,
}

impl Caller {
    pub fn new(app: Router, with: Key, session: Session) -> Self {
        let service = app.with_state::<()>(()).into_service::<Body>();
        Self { service, with, session, next: 0 }
    }

    fn another(&self, number: u64) -> Self {
        // So far apart that none comes to the keys of the next.
        Self { service: self.service.clone(), next: number << 40, ..*self }
    }

    pub async fn call(&mut self) -> Response<Body> {
        let request = request(self.next, self.with, self.session);
        self.next += 1;
        let Ok(answer) = self.service.clone().oneshot(std::hint::black_box(request)).await;
        answer
    }
}

impl Runner for Caller {
    fn run(&mut self, calls: u64) -> Batch<'_> {
        Box::pin(async move {
            let mut answered = 0;
            for _ in 0..calls {
                let answer = self.call().await;
                answered += u64::from(is_success(std::hint::black_box(Ok(answer))));
            }
            answered
        })
    }
}

/// Callers of an app that has answered one request before.
fn callers(who: &'static str, with: Key) -> Callers {
    let (app, session) = app(who, handler()).expect("a known name");
    let mut first = Caller::new(app, with, session);
    crate::runtime().block_on(first.run(1));
    let number = Cell::new(0);
    Box::new(move || {
        number.set(number.get() + 1);
        Box::new(first.another(number.get()))
    })
}

pub fn case(what: &str, who: &'static str, with: Key) -> Case {
    Case::new(format!("idem/{what}/{who}"), Expect::Allowed, move || callers(who, with)).scales()
}

/// A caller of an app that holds so many keys.
pub type Made = Pin<Box<dyn Future<Output = Caller> + Send>>;

const WARM: u64 = 16;

/// Calls with fresh keys, each of which the app then holds. When there are too many more than the name says,
/// the app is made anew.
struct Held<M> {
    make: M,
    keys: u64,
    more: u64,
    caller: Option<Caller>,
    since: u64,
}

impl<M: Fn(u64) -> Made + Send> Runner for Held<M> {
    fn prepare(&mut self) -> Batch<'_> {
        Box::pin(async move {
            if self.caller.is_none() || self.since > self.more {
                // The old one first: two with a million keys need not be there at once.
                self.caller = None;
                self.caller = Some((self.make)(self.keys).await);
                self.since = 0;
            }
            // Batches start warm, and those of few calls are not warmed by others.
            self.run(WARM).await
        })
    }

    fn run(&mut self, calls: u64) -> Batch<'_> {
        Box::pin(async move {
            self.since += calls;
            match &mut self.caller {
                Some(caller) => caller.run(calls).await,
                // Asked for without being prepared.
                None => 0,
            }
        })
    }
}

/// Fresh keys where so many are held.
pub fn held(
    who: &str,
    label: &str,
    keys: u64,
    make: impl Fn(u64) -> Made + Clone + Send + 'static,
) -> Case {
    let more = (keys / 10).max(32);
    Case::new(format!("idem/fresh@{label}/{who}"), Expect::Allowed, move || {
        let make = make.clone();
        Box::new(move || Box::new(Held { make: make.clone(), keys, more, caller: None, since: 0 }))
    })
    .max_batch(more.max(64))
    .counted_calls(more.clamp(64, 1024))
}

pub const HELD: [(&str, u64); 5] =
    [("10", 10), ("1k", 1_000), ("10k", 10_000), ("100k", 100_000), ("1M", 1_000_000)];

pub fn cases() -> Vec<Case> {
    vec![
        case("post", "plain", Key::Fresh),
        case("post", "identity", Key::Fresh),
        case("post without key", "identity", Key::None),
    ]
}

// ---- `--smoke` ---------------------------------------------------------------------------------

const REPLAYED: &str = "idempotency-replayed";

struct Seen {
    status: StatusCode,
    body: Bytes,
    replayed: bool,
}

async fn see(caller: &mut Caller) -> Seen {
    let answer = caller.call().await;
    let (status, replayed) = (answer.status(), answer.headers().contains_key(REPLAYED));
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap_or_default();
    Seen { status, body, replayed }
}

/// An app that counts how often its handler runs and says so in its answer.
fn counted(who: &str) -> Option<(Router, Session, Arc<AtomicU64>)> {
    let ran = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&ran);
    let handler = post(move |body: Bytes| {
        let run = count.fetch_add(1, Ordering::SeqCst);
        let same = body == ASKED;
        async move { (StatusCode::CREATED, [(CONTENT_TYPE, JSON)], format!("run {run}, {same}")) }
    });
    let (app, session) = app(who, handler)?;
    Some((app, session, ran))
}

/// What is wrong with how one of them answers: replays must be replays, and everything else none.
pub fn wrong(who: &str) -> Vec<String> {
    const CALLS: u64 = 20;
    let mut wrong = Vec::new();
    for with in [Key::Same, Key::Fresh, Key::None] {
        let before = wrong.len();
        let Some((app, session, ran)) = counted(who) else {
            return vec![format!("idem: `{who}` is not known")];
        };
        let mut caller = Caller::new(app, with, session);
        // The peer's default makes a key of the request itself.
        let kept = !matches!(who, "plain" | "identity" | "session layers")
            && (with == Key::Same || with == Key::None && who.ends_with("hash"));
        crate::runtime().block_on(async {
            for call in 0..CALLS {
                let seen = see(&mut caller).await;
                let run = if kept { 0 } else { call };
                let right = seen.status == StatusCode::CREATED
                    && seen.body == format!("run {run}, true")
                    && seen.replayed == (kept && call > 0);
                if !right {
                    wrong.push(format!(
                        "idem, {who}, {with:?}: call {call} got {} {:?}, replayed: {}",
                        seen.status, seen.body, seen.replayed
                    ));
                    // The others are wrong in the same way.
                    break;
                }
            }
        });
        let expected = if kept { 1 } else { CALLS };
        let ran = ran.load(Ordering::SeqCst);
        if ran != expected && wrong.len() == before {
            wrong.push(format!("idem, {who}, {with:?}: ran {ran} times, expected {expected}"));
        }
    }
    wrong
}

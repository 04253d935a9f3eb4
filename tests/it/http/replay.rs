//! Bodies that can be sent again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use buttress::BoxError;
use buttress::http::{ReplayBody, ReplayError, replay_up_to, standard};
use buttress::retry::{HttpRequest, Replay};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use proptest::prelude::*;
use tower::{Service, ServiceBuilder, ServiceExt};

#[derive(Clone, Debug)]
enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Pending,
    Fail,
}

/// A body that does as it is told.
#[derive(Clone, Debug)]
struct Script {
    steps: VecDeque<Step>,
    /// Whether it knows its size and its end in advance.
    knows: bool,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>, knows: bool) -> Self {
        Self { steps: steps.into_iter().collect(), knows }
    }

    fn len(&self) -> usize {
        let len = |step: &Step| if let Step::Data(data) = step { data.len() } else { 0 };
        self.steps.iter().map(len).sum()
    }
}

#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Poll::Ready(match self.steps.pop_front() {
            None => None,
            Some(Step::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Step::Trailers(map)) => Some(Ok(Frame::trailers(map))),
            Some(Step::Fail) => Some(Err(Broken)),
            Some(Step::Pending) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.knows && self.steps.iter().all(|step| matches!(step, Step::Pending))
    }

    fn size_hint(&self) -> SizeHint {
        if self.knows { SizeHint::with_exact(self.len() as u64) } else { SizeHint::new() }
    }
}

fn data(text: &'static str) -> Step {
    Step::Data(Bytes::from_static(text.as_bytes()))
}

fn some_trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("x-checksum"),
        HeaderValue::from_static("1"),
    )])
}

/// Reads up to `frames` frames, checking size hint and end-of-stream against the `len` bytes and the
/// trailers that are still to come.
async fn read<B>(
    body: &mut ReplayBody<B>,
    frames: usize,
    len: usize,
) -> (Vec<u8>, Option<HeaderMap>)
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let (mut bytes, mut trailers) = (Vec::new(), None);
    for _ in 0..frames {
        let left = (len - bytes.len()) as u64;
        let hint = body.size_hint();
        assert!(hint.lower() <= left, "{hint:?} {left}");
        assert!(hint.upper().is_none_or(|upper| left <= upper), "{hint:?} {left}");
        let ended = body.is_end_stream();
        let Some(frame) = body.frame().await else { break };
        assert!(!ended, "a frame after the end");
        match frame.unwrap().into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => {
                let before = trailers.replace(frame.into_trailers().unwrap());
                assert!(before.is_none(), "trailers twice");
            }
        }
    }
    (bytes, trailers)
}

async fn read_all<B>(mut body: ReplayBody<B>, len: usize) -> (Vec<u8>, Option<HeaderMap>)
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let all = read(&mut body, usize::MAX, len).await;
    assert_eq!(body.size_hint().lower(), 0);
    assert!(body.frame().await.is_none(), "something after the end");
    all
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn script() -> impl Strategy<Value = Script> {
    let chunk = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..4),
        2 => prop::collection::vec(any::<u8>(), 0..300),
        1 => prop::collection::vec(any::<u8>(), 250..1000),
    ];
    let step = prop_oneof![
        5 => chunk.prop_map(|bytes| Step::Data(bytes.into())),
        1 => Just(Step::Pending),
    ];
    (prop::collection::vec(step, 0..20), any::<bool>(), any::<bool>()).prop_map(
        |(mut steps, trailers, knows)| {
            if trailers {
                steps.push(Step::Trailers(some_trailers()));
            }
            Script::new(steps, knows)
        },
    )
}

proptest! {
    /// Any cutting, any cap, the first reader dropped anywhere: the second reads the same, or is
    /// refused exactly when more than the cap was read.
    #[test]
    fn replay_equals_the_original(
        script in script(),
        percent in 0usize..150,
        stops in prop::collection::vec(0usize..25, 0..4),
    ) {
        let len = script.len();
        let cap = len * percent / 100;
        let original = run(async {
            let all = script.clone().collect().await.unwrap();
            (all.trailers().cloned(), all.to_bytes())
        });
        let (trailers, bytes) = original;
        let refused_at_once = script.knows && !script.is_end_stream() && len > cap;
        let empty = script.is_end_stream();
        run(async {
            let mut next = ReplayBody::new(script, cap);
            if refused_at_once {
                assert!(!next.is_replayable());
                assert!(next.try_clone().is_none());
                assert_eq!(read_all(next, len).await, (bytes.to_vec(), trailers));
                return;
            }
            let mut most = 0;
            for stop in stops {
                let spare = next.try_clone().unwrap();
                let (part, _) = read(&mut next, stop, len).await;
                assert_eq!(part, bytes[..part.len()]);
                most = most.max(part.len());
                drop(next);
                next = spare;
                if most > cap {
                    assert!(!next.is_replayable());
                    assert!(next.try_clone().is_none());
                    let error = next.frame().await.unwrap().unwrap_err();
                    assert!(error.is::<ReplayError>());
                    assert!(next.frame().await.is_none());
                    return;
                }
            }
            let spare = next.try_clone().unwrap();
            assert_eq!(read_all(next, len).await, (bytes.to_vec(), trailers.clone()));
            if len > cap && !empty {
                assert!(spare.try_clone().is_none());
            } else {
                // Fully kept: as often as one likes, also when the last reader is still there.
                let mut reader = spare.try_clone().unwrap();
                read(&mut reader, usize::MAX, len).await;
                assert_eq!(read_all(spare, len).await, (bytes.to_vec(), trailers.clone()));
                let again = reader.try_clone().unwrap();
                assert_eq!(read_all(again, len).await, (bytes.to_vec(), trailers));
            }
        });
    }
}

#[test]
fn the_cap_is_exact() {
    for knows in [false, true] {
        for (cap, kept) in [(5, true), (4, false), (0, false), (usize::MAX, true)] {
            let script = Script::new([data("he"), data("llo")], knows);
            let body = ReplayBody::new(script, cap);
            let spare = body.try_clone();
            assert_eq!(run(read_all(body, 5)).0, b"hello");
            assert_eq!(spare.is_some_and(|spare| spare.is_replayable()), kept, "{knows} {cap}");
        }
    }
    let empty = ReplayBody::new(Empty::<Bytes>::new(), 0);
    assert!(empty.try_clone().is_some());
    assert!(empty.is_end_stream());
    let trailers_only = Script::new([Step::Trailers(some_trailers())], true);
    let body = ReplayBody::new(trailers_only, 0);
    let spare = body.try_clone().unwrap();
    assert_eq!(run(read_all(body, 0)).1, Some(some_trailers()));
    assert_eq!(run(read_all(spare, 0)).1, Some(some_trailers()));
}

#[test]
fn the_size_is_refused_before_anything_is_read() {
    let body = ReplayBody::new(Full::<Bytes>::from("hello"), 4);
    assert!(body.try_clone().is_none());
    assert_eq!(body.size_hint().exact(), Some(5));
    assert_eq!(run(body.collect()).unwrap().to_bytes(), "hello");
}

#[test]
fn a_body_under_way_is_not_cloned_and_not_read_twice() {
    run(async {
        let mut first = ReplayBody::new(Script::new([data("he"), data("llo")], false), 100);
        let mut second = first.try_clone().unwrap();
        let third = first.try_clone().unwrap();
        first.frame().await.unwrap().unwrap();
        assert!(first.try_clone().is_none());
        assert!(second.try_clone().is_none());

        let error = second.frame().await.unwrap().unwrap_err();
        assert!(error.is::<ReplayError>());
        assert!(second.frame().await.is_none());
        assert!(second.try_clone().is_none());

        // The one under way is not disturbed, and hands on what it has when it goes.
        first.frame().await.unwrap().unwrap();
        drop(first);
        assert_eq!(read_all(third, 5).await.0, b"hello");
    });
}

#[test]
fn a_reader_dropped_while_pending_hands_the_body_on() {
    run(async {
        let steps = [data("he"), Step::Pending, data("llo"), Step::Trailers(some_trailers())];
        let mut first = ReplayBody::new(Script::new(steps, false), 100);
        let second = first.try_clone().unwrap();
        first.frame().await.unwrap().unwrap();
        assert!(first.frame().now_or_never().is_none());
        drop(first);
        assert_eq!(read_all(second, 5).await, (b"hello".to_vec(), Some(some_trailers())));
    });
}

#[test]
fn errors_of_the_body_are_passed_on_and_end_it() {
    run(async {
        let mut first = ReplayBody::new(Script::new([data("he"), Step::Fail], false), 100);
        let mut second = first.try_clone().unwrap();
        first.frame().await.unwrap().unwrap();
        let error = first.frame().await.unwrap().unwrap_err();
        assert!(error.is::<Broken>());
        assert!(first.frame().await.is_none());
        assert!(first.try_clone().is_none());
        assert!(second.try_clone().is_none());
        let error = second.frame().await.unwrap().unwrap_err();
        assert!(error.is::<ReplayError>());
        assert_eq!(error.to_string(), "request body was not kept and cannot be sent again");

        // Also when the body is only passed through.
        let mut long = ReplayBody::new(Script::new([data("hello"), Step::Fail], false), 1);
        long.frame().await.unwrap().unwrap();
        assert!(long.frame().await.unwrap().unwrap_err().is::<Broken>());
    });
}

#[test]
fn a_body_of_single_bytes_is_kept_in_few_pieces() {
    run(async {
        let steps = vec![data("x"); 10_000];
        let first = ReplayBody::new(Script::new(steps, false), 10_000);
        let mut second = first.try_clone().unwrap();
        drop(read_all(first, 10_000).await);
        let mut frames = 0;
        while let Some(frame) = second.frame().await {
            frame.unwrap();
            frames += 1;
        }
        assert_eq!(frames, 1);
    });
}

#[test]
fn readers_on_two_threads_never_block_each_other() {
    for _ in 0..200 {
        let body = ReplayBody::new(Script::new(vec![data("hello"); 50], false), 1000);
        let others: Vec<_> = (0..2).map(|_| body.try_clone().unwrap()).collect();
        drop(body);
        let ends: Vec<Result<usize, BoxError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = others
                .into_iter()
                .map(|body| scope.spawn(|| run(body.collect()).map(|all| all.to_bytes().len())))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // One at least gets through; the other too, or it is told why not.
        assert!(ends.iter().any(|end| end.as_ref().is_ok_and(|len| *len == 250)));
        for end in ends {
            assert!(end.map_or_else(|e| e.is::<ReplayError>(), |len| len == 250));
        }
    }
}

#[test]
fn a_request_is_copied_with_its_extensions() {
    let request = Request::patch("/a?b")
        .version(http::Version::HTTP_2)
        .header("x", "y")
        .extension(7u8)
        .body(ReplayBody::new(Full::<Bytes>::from("hello"), 100))
        .unwrap();
    let copy = HttpRequest::new().try_replay(&request).unwrap();
    assert_eq!(copy.method(), "PATCH");
    assert_eq!(copy.uri(), "/a?b");
    assert_eq!(copy.version(), http::Version::HTTP_2);
    assert_eq!(copy.headers()["x"], "y");
    assert_eq!(copy.extensions().get::<u8>(), Some(&7));
    assert_eq!(run(copy.into_body().collect()).unwrap().to_bytes(), "hello");

    let long = request.map(|_| ReplayBody::new(Full::<Bytes>::from("hello"), 1));
    assert!(HttpRequest::new().try_replay(&long).is_none());
}

#[test]
fn reading_what_was_not_kept_says_nothing_about_the_callee() {
    use buttress::{Classify, Verdict};
    let mut body = ReplayBody::new(Script::new([data("hello")], false), 1);
    let mut spare = body.try_clone().unwrap();
    run(async {
        body.frame().await.unwrap().unwrap();
        let error = spare.frame().await.unwrap().unwrap_err();
        let c = standard();
        let ticket = Classify::<_, Response<()>, BoxError>::start(&c, &Request::new(()));
        let verdict = Classify::<Request<()>, Response<()>, _>::finish(&c, ticket, Err(&error));
        assert_eq!(verdict, Verdict::ignored());
    });
}

#[test]
fn the_layer_wraps_the_body_and_nothing_else() {
    let mut service = ServiceBuilder::new().layer(replay_up_to(5)).service_fn(
        |request: Request<ReplayBody<Full<Bytes>>>| async move {
            Ok::<_, std::convert::Infallible>((
                request.body().is_replayable(),
                request.into_parts().0,
            ))
        },
    );
    run(async {
        for (body, expected) in [("", true), ("hello", true), ("hello!", false)] {
            let request = Request::post("/").header("x", "y").body(Full::from(body)).unwrap();
            let Ok((kept, parts)) = service.ready().await.unwrap().call(request).await;
            assert_eq!(kept, expected, "{body:?}");
            assert_eq!(parts.headers["x"], "y");
        }
    });
}

#[test]
fn replay_body_is_send_and_sync_when_the_body_is_send() {
    fn check<T: Send + Sync + Unpin>() {}
    check::<ReplayBody<axum::body::Body>>();
    check::<ReplayBody<hyper::body::Incoming>>();
    check::<ReplayBody<Full<Bytes>>>();
}

/// The contract kit gives a layer the request type that its own inner service takes, so the body is
/// unwrapped again behind the layer.
#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn the_layer_keeps_the_contract() {
    use buttress::testing::{Subject, check_all};
    use tower::layer::util::Stack;
    use tower::util::MapRequestLayer;

    type Outer = Request<Full<Bytes>>;
    type Inner = Request<ReplayBody<Full<Bytes>>>;
    let layer = || {
        let unwrap: fn(Inner) -> Outer = |request| request.map(|_| Full::default());
        Stack::new(MapRequestLayer::new(unwrap), replay_up_to(10))
    };
    let request = || Request::new(Full::<Bytes>::from("hello"));
    let subject = Subject::new(layer, request, |_: Outer| Ok::<_, BoxError>(()))
        .ready_error(|| "broken".into())
        .stateless();
    check_all(&subject).await.unwrap();
}

/// The good response was given up, and the caller got an error of its own body instead.
#[tokio::test(start_paused = true)]
async fn an_answer_is_not_given_up_for_a_body_that_was_not_kept() {
    use buttress::retry::{RetryLayer, RetryPolicy};

    /// Reads the body, as far as it is told to, and answers that it cannot.
    async fn calls<R>(replay: R, frames: usize) -> (u16, usize)
    where
        R: Replay<Request<ReplayBody<Script>>> + Clone,
    {
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = calls.clone();
        let serve = move |request: Request<ReplayBody<Script>>| {
            seen.fetch_add(1, Ordering::Relaxed);
            async move {
                let mut body = request.into_body();
                for _ in 0..frames {
                    body.frame().await.unwrap()?;
                }
                // The connection may go on with the upload while the answer is there.
                let answer = Response::builder().status(503).body(body).unwrap();
                Ok::<_, BoxError>(answer)
            }
        };
        let policy = RetryPolicy::builder().max_attempts(3).build().unwrap();
        let client = ServiceBuilder::new()
            .layer(replay_up_to(4))
            .layer(RetryLayer::new(policy).classify(standard()).replay(replay))
            .service_fn(serve);
        let request =
            Request::put("/").body(Script::new([data("hel"), data("lo")], false)).unwrap();
        let answer = client.oneshot(request).await.unwrap();
        (answer.status().as_u16(), calls.load(Ordering::Relaxed))
    }
    for frames in [1, 2] {
        assert_eq!(calls(HttpRequest::new(), frames).await, (503, 1));
    }
}

/// There is nothing to wait for: no pause makes it whole.
#[tokio::test(start_paused = true)]
async fn an_error_after_a_body_that_was_not_kept_is_told_at_once() {
    use buttress::retry::{HttpRequest, RetryLayer, RetryPolicy};
    for (cap, calls) in [(4, 1), (5, 2)] {
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        let client = ServiceBuilder::new()
            .layer(replay_up_to(cap))
            .layer(
                RetryLayer::new(RetryPolicy::builder().max_attempts(2).build().unwrap())
                    .classify(standard())
                    .replay(HttpRequest::new()),
            )
            .service_fn(move |request: Request<ReplayBody<Script>>| {
                count.fetch_add(1, Ordering::Relaxed);
                async move {
                    request.into_body().collect().await?;
                    let reset = std::io::ErrorKind::ConnectionReset;
                    Err::<Response<()>, BoxError>(std::io::Error::from(reset).into())
                }
            });
        let began = tokio::time::Instant::now();
        let request =
            Request::put("/").body(Script::new([data("hel"), data("lo")], false)).unwrap();
        let error = client.oneshot(request).await.unwrap_err();
        assert!(error.downcast_ref::<std::io::Error>().is_some(), "{error}");
        assert_eq!(seen.load(Ordering::Relaxed), calls);
        assert_eq!(began.elapsed().is_zero(), calls == 1);
    }
}

//! Spans: where the time of a call goes before it is sent, between its attempts, and in a server's stack.

// As an observer, a subscriber must not change the call that it watches: who begins to wait has a place in a row, and
// who ends to wait has what it waited for.
#[cfg(feature = "tracing")]
use crate::caught::caught;
use crate::name::{LayerKind, Name};

/// How a wait ended; a third word is for whoever went away.
pub(crate) const LET_THROUGH: &str = "let_through";
pub(crate) const REFUSED: &str = "refused";
#[cfg(feature = "tracing")]
pub(crate) const LEFT: &str = "left";

/// A call waits: a span from its beginning to its end, a child of the caller's. One word, since it lies in futures
/// of which most never wait; nothing without `tracing`, and no allocation while nobody listens at `DEBUG`.
#[derive(Debug)]
pub(crate) struct WaitSpan {
    #[cfg(feature = "tracing")]
    span: Option<Box<::tracing::Span>>,
}

impl WaitSpan {
    pub(crate) const NONE: Self = Self {
        #[cfg(feature = "tracing")]
        span: None,
    };

    #[cold]
    pub(crate) fn begin(layer: LayerKind, name: Name) -> Self {
        #[cfg(feature = "tracing")]
        return Self { span: wait(layer, name).map(Box::new) };
        #[cfg(not(feature = "tracing"))]
        {
            let _ = (layer, name);
            Self::NONE
        }
    }

    #[inline]
    #[cfg_attr(
        not(feature = "tracing"),
        expect(clippy::needless_pass_by_ref_mut, reason = "it changes with it")
    )]
    pub(crate) fn end(&mut self, outcome: &'static str) {
        #[cfg(feature = "tracing")]
        if let Some(span) = self.span.take() {
            close(*span, outcome);
        }
        #[cfg(not(feature = "tracing"))]
        let _ = outcome;
    }

    /// Begins if it has not.
    #[cfg_attr(
        not(feature = "tracing"),
        expect(clippy::needless_pass_by_ref_mut, reason = "it changes with it")
    )]
    pub(crate) fn ensure(&mut self, layer: LayerKind, name: Name) {
        #[cfg(feature = "tracing")]
        if self.span.is_none() {
            *self = Self::begin(layer, name);
        }
        #[cfg(not(feature = "tracing"))]
        let _ = (layer, name);
    }
}

#[cfg(feature = "tracing")]
impl Drop for WaitSpan {
    #[inline]
    fn drop(&mut self) {
        self.end(LEFT);
    }
}

#[cfg(feature = "tracing")]
fn wait(layer: LayerKind, name: Name) -> Option<::tracing::Span> {
    if !are_seen() {
        return None;
    }
    let (layer, name) = (layer.as_str(), name.as_str());
    let outcome = ::tracing::field::Empty;
    let span = caught(|| ::tracing::debug_span!(target: "buttress", "wait", layer, name, outcome));
    span.filter(|span| !span.is_disabled())
}

#[cfg(feature = "tracing")]
#[cold]
fn close(span: ::tracing::Span, outcome: &'static str) {
    record(&span, "outcome", outcome);
    caught(|| drop(span));
}

/// Somebody takes spans of `DEBUG`. Where nobody does, one that is made all the same costs some hundred instructions if
/// `tracing` has its feature `log`, whoever has asked for that.
#[cfg(feature = "tracing")]
#[inline]
fn are_seen() -> bool {
    ::tracing::level_filters::LevelFilter::current() >= ::tracing::Level::DEBUG
}

#[cfg(feature = "tracing")]
fn record(span: &::tracing::Span, field: &str, value: impl ::tracing::Value) {
    caught(|| span.record(field, value));
}

/// A span that a call runs in; nothing without `tracing`.
#[derive(Debug)]
pub(crate) struct CallSpan {
    #[cfg(feature = "tracing")]
    span: ::tracing::Span,
}

impl CallSpan {
    pub(crate) const NONE: Self = Self {
        #[cfg(feature = "tracing")]
        span: ::tracing::Span::none(),
    };

    /// That of a retry; a first attempt runs in its caller's.
    pub(crate) fn retry(name: &'static str, attempt: u32) -> Self {
        #[cfg(feature = "tracing")]
        return Self::begin(
            || ::tracing::debug_span!(target: "buttress", "retry_attempt", layer = "retry", name, attempt),
        );
        #[cfg(not(feature = "tracing"))]
        {
            let _ = (name, attempt);
            Self::NONE
        }
    }

    /// That of a call of a server's stack.
    #[cfg(feature = "tracing")]
    pub(super) fn request(name: Name) -> Self {
        let name = name.as_str();
        let (outcome, why) = (::tracing::field::Empty, ::tracing::field::Empty);
        Self::begin(
            || ::tracing::debug_span!(target: "buttress", "request", layer = "server", name, outcome, why),
        )
    }

    #[cfg(feature = "tracing")]
    fn begin(span: impl FnOnce() -> ::tracing::Span) -> Self {
        if !are_seen() {
            return Self::NONE;
        }
        caught(span).map_or(Self::NONE, |span| Self { span })
    }

    /// Runs a part of the call in it.
    #[inline]
    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        let _entered = self.enter();
        f()
    }

    #[cfg(feature = "tracing")]
    #[inline]
    fn enter(&self) -> Option<Inside<'_>> {
        if self.span.is_disabled() {
            return None;
        }
        caught(|| self.span.enter()).map(|entered| Inside(Some(entered)))
    }

    #[cfg(feature = "tracing")]
    pub(super) fn is_disabled(&self) -> bool {
        self.span.is_disabled()
    }

    #[cfg(feature = "tracing")]
    pub(super) fn record(&self, field: &str, value: impl ::tracing::Value) {
        record(&self.span, field, value);
    }
}

/// Who panics as it is closed must not take the answer along, nor what else ends with the call.
#[cfg(feature = "tracing")]
impl Drop for CallSpan {
    #[inline]
    fn drop(&mut self) {
        if !self.span.is_disabled() {
            let span = std::mem::replace(&mut self.span, ::tracing::Span::none());
            caught(|| drop(span));
        }
    }
}

/// Until it is left.
#[cfg(feature = "tracing")]
struct Inside<'a>(Option<::tracing::span::Entered<'a>>);

#[cfg(feature = "tracing")]
impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let entered = self.0.take();
        caught(|| drop(entered));
    }
}

#[cfg(all(test, feature = "tracing", not(buttress_loom)))]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use ::tracing::level_filters::LevelFilter;
    use ::tracing::span::{Attributes, Id, Record};
    use ::tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// Writes a line of the table for each new span.
    #[derive(Clone)]
    struct Lines {
        level: LevelFilter,
        all: Arc<Mutex<Vec<String>>>,
    }

    impl Lines {
        fn at(level: LevelFilter) -> Self {
            Self { level, all: Arc::default() }
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.is_span() && *metadata.level() <= self.level
        }

        fn max_level_hint(&self) -> Option<LevelFilter> {
            Some(self.level)
        }

        fn new_span(&self, span: &Attributes<'_>) -> Id {
            let about = span.metadata();
            assert_eq!(about.target(), "buttress");
            let fields: Vec<_> = about.fields().iter().map(|field| format!("`{field}`")).collect();
            let (name, fields) = (about.name(), fields.join(", "));
            let level = about.level().to_string().to_lowercase();
            self.all
                .lock()
                .expect("nobody panics with it")
                .push(format!("//! | `{name}` | {level} | {fields} |"));
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn above_debug_there_are_none() {
        let lines = Lines::at(LevelFilter::INFO);
        ::tracing::subscriber::with_default(lines.clone(), || {
            let name = Name::from("api");
            drop(WaitSpan::begin(LayerKind::Admission, name));
            assert!(CallSpan::retry("api", 2).is_disabled());
            assert!(CallSpan::request(name).is_disabled());
        });
        assert!(lines.all.lock().unwrap().is_empty());
    }

    #[test]
    fn the_documentation_has_these_spans() {
        let lines = Lines::at(LevelFilter::DEBUG);
        ::tracing::subscriber::with_default(lines.clone(), || {
            let name = Name::from("api");
            drop(WaitSpan::begin(LayerKind::Admission, name));
            drop(CallSpan::retry("api", 2));
            drop(CallSpan::request(name));
        });
        let documented = include_str!("mod.rs").lines();
        let documented: Vec<_> = documented
            .skip_while(|line| !line.starts_with("//! | span |"))
            .skip(2)
            .take_while(|line| line.starts_with("//! |"))
            .map(|line| line.rsplitn(3, '|').last().unwrap().to_owned() + "|")
            .collect();
        assert_eq!(documented, *lines.all.lock().unwrap());
    }

    #[test]
    fn all_spans_are_made_here() {
        fn look(at: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    look(&path, found);
                } else if std::fs::read_to_string(&path).is_ok_and(|text| text.contains(MACRO)) {
                    found.push(path.file_name().unwrap().to_string_lossy().into_owned());
                }
            }
        }
        const MACRO: &str = "span!(";
        let mut found = Vec::new();
        look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert_eq!(found, ["spans.rs"]);
    }
}

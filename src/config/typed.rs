//! A user's type from a tree, with key and origin in every error.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use ::config_rs::{Value, ValueKind};
use serde::de::value::{MapDeserializer, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::fields::ROOT;
use super::problem::{Problem, ProblemKind};
use super::read::{flag, join};
use super::repairs::{NOTHING, Repairs};
use super::schema::nearest;
use super::stand_in::StandIn;
use super::value::{HIDDEN, is_secret, origin, shown, sorted, strongest, to_json};
use crate::units;

/// One attempt to read a type.
pub(super) struct Run<'r> {
    pub(super) repairs: &'r Repairs,
    /// Keys that a struct does not know.
    pub(super) unknown: RefCell<Vec<Problem>>,
    /// What was taken as it came, to be made something of later, where its path is not known any more.
    pub(super) kept: RefCell<BTreeSet<String>>,
}

/// A value with its path.
pub(super) struct Node<'a> {
    value: &'a Value,
    path: String,
    root: bool,
    run: &'a Run<'a>,
}

/// The first value that did not fit. Until a node has put its name on it, key and origin are empty.
#[derive(Debug)]
pub(super) struct Fail(pub(super) Box<Problem>, pub(super) Option<Field>);

/// The field that it is about, of which the problem's key is not yet that of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Missing(&'static str),
    Unknown(Box<str>),
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fail {}

impl serde::de::Error for Fail {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::expected(format_args!("a value that fits ({message})"))
    }

    fn invalid_type(_: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::expected(expected)
    }

    fn invalid_value(_: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::expected(expected)
    }

    fn missing_field(field: &'static str) -> Self {
        let mut fail = Self::expected(format_args!("the key {field:?}"));
        fail.0.kind = ProblemKind::Missing;
        fail.1 = Some(Field::Missing(field));
        fail
    }

    fn invalid_length(_: usize, expected: &dyn serde::de::Expected) -> Self {
        Self::expected(expected)
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::expected(one_of(variant, known.iter().copied()))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        let mut fail = Self::expected(one_of(field, known.iter().copied()));
        fail.0.kind = ProblemKind::UnknownKey;
        fail.1 = Some(Field::Unknown(field.into()));
        fail
    }

    fn duplicate_field(field: &'static str) -> Self {
        let mut fail = Self::expected(format_args!("{field:?} once"));
        fail.0.kind = ProblemKind::Contradiction;
        fail
    }
}

impl Fail {
    fn expected<T: fmt::Display>(expected: T) -> Self {
        let problem = Problem::new(ProblemKind::WrongType, "", "", "", expected.to_string());
        Self(Box::new(problem), None)
    }
}

/// The one that is meant, or all there are.
fn one_of<'k>(key: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    match nearest(key, known.clone()) {
        Some(near) => format!("{near:?}"),
        None => format!("one of {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// Puts its name on a problem that has none.
pub(super) fn place(problem: &mut Problem, path: &str, value: &Value) {
    if !problem.origin.is_empty() {
        return;
    }
    origin(value).clone_into(&mut problem.origin);
    path.clone_into(&mut problem.key);
    problem.value = match (problem.kind, &value.kind) {
        (ProblemKind::Missing, _) => "incomplete".to_owned(),
        (ProblemKind::UnknownKey, _) => "unknown key".to_owned(),
        (_, ValueKind::Table(_)) => "a table".to_owned(),
        (_, ValueKind::Float(n)) if !n.is_finite() && !is_secret(path) => n.to_string(),
        _ => shown(path, &to_json(value)),
    };
    let hidden = problem.value.contains(HIDDEN) || is_secret(path);
    if hidden && !matches!(problem.kind, ProblemKind::Missing | ProblemKind::UnknownKey) {
        // The type's own message may quote the value.
        "a value that fits".clone_into(&mut problem.expected);
    }
}

/// Reads a value, or what stands in for it.
fn seeded<'de, T: DeserializeSeed<'de>>(node: Node<'_>, seed: T) -> Result<T::Value, Fail> {
    let (value, path, repairs) = (node.value, node.path.clone(), node.run.repairs);
    let read = match repairs.stands_in(&path) {
        Some(turn) => seed.deserialize(StandIn::new(turn)),
        None => seed.deserialize(node),
    };
    read.map_err(|mut fail| {
        place(&mut fail.0, &path, value);
        fail
    })
}

impl<'a> Node<'a> {
    pub(super) const fn new(value: &'a Value, path: String, root: bool, run: &'a Run<'a>) -> Self {
        Self { value, path, root, run }
    }

    fn child(&self, key: &str, value: &'a Value) -> Self {
        self.inner(join(&self.path, key), value)
    }

    fn inner(&self, path: String, value: &'a Value) -> Self {
        let value = self.run.repairs.instead_of(&path).unwrap_or(value);
        Node { value, path, root: false, run: self.run }
    }

    fn named(&self, mut fail: Fail) -> Fail {
        place(&mut fail.0, &self.path, self.value);
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
                let items = list.iter().enumerate();
                let items =
                    items.map(|(n, value)| self.inner(format!("{}[{n}]", self.path), value));
                let items = items.filter(|node| !self.run.repairs.is_out(&node.path)).collect();
                visitor.visit_seq(Nodes { nodes: in_order(items) })
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

/// Whatever is asked for: it says what it is.
macro_rules! as_it_is {
    ($($method:ident($($more:ty),*))+) => {
        $(fn $method<V: Visitor<'de>>(self, $(_: $more,)* visitor: V) -> Result<V::Value, Fail> {
            self.any(visitor)
        })+
    };
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Fail;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.run.kept.borrow_mut().insert(self.path.clone());
        self.any(visitor)
    }

    as_it_is! {
        deserialize_i128() deserialize_u128() deserialize_char() deserialize_str()
        deserialize_string() deserialize_bytes() deserialize_byte_buf() deserialize_unit()
        deserialize_unit_struct(&'static str) deserialize_seq() deserialize_tuple(usize)
        deserialize_tuple_struct(&'static str, usize) deserialize_map() deserialize_identifier()
        deserialize_ignored_any()
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
                    self.run.unknown.borrow_mut().push(Problem::new(
                        ProblemKind::UnknownKey,
                        join(&self.path, key),
                        "unknown key",
                        origin(value),
                        one_of(key, known),
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
        // One that knows only its own keys would refuse the others.
        let asked = |key: &str| fields.contains(&key) || !ours(key);
        let said = said.into_iter();
        let said = said.filter(|(key, value)| !matches!(value.kind, ValueKind::Nil) && asked(key));
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
            ValueKind::Table(table) => match strongest(self.value, table) {
                Some((key, value)) => {
                    visitor.visit_enum(Variant { key, node: self.child(key, value) })
                }
                None => Err(Fail::expected(VARIANT)),
            },
            _ => Err(Fail::expected(VARIANT)),
        };
        result.map_err(|fail| self.named(fail))
    }
}

const VARIANT: &str = "a variant: its name, or a table with its name as the one key";

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
            return Err(self.named(Fail::expected(expected)));
        };
        let parts = [("secs", time.as_secs()), ("nanos", u64::from(time.subsec_nanos()))];
        visitor.visit_map(MapDeserializer::new(parts.into_iter()))
    }
}

/// What does not fit at all comes last, so that the rest is looked at.
fn in_order(mut nodes: Vec<Node<'_>>) -> std::vec::IntoIter<Node<'_>> {
    nodes.sort_by_key(|node| node.run.repairs.is_last(&node.path));
    nodes.into_iter()
}

struct Nodes<'a> {
    nodes: std::vec::IntoIter<Node<'a>>,
}

impl<'de> SeqAccess<'de> for Nodes<'_> {
    type Error = Fail;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fail> {
        self.nodes.next().map(|node| seeded(node, seed)).transpose()
    }
}

struct Entries<'a> {
    entries: std::vec::IntoIter<(&'a str, Node<'a>)>,
    value: Option<Node<'a>>,
}

impl<'a> Entries<'a> {
    fn new(node: &Node<'a>, entries: Vec<(&'a String, &'a Value)>) -> Self {
        let repairs = node.run.repairs;
        let said = entries.into_iter().map(|(key, value)| (key.as_str(), value));
        let all = said.chain(repairs.added(&node.path).map(|key| (key, &*NOTHING)));
        let mut all: Vec<_> = all
            .map(|(key, value)| (key, node.child(key, value)))
            .filter(|(_, node)| !repairs.is_out(&node.path))
            .collect();
        all.sort_by_key(|(_, node)| repairs.is_last(&node.path));
        Self { entries: all.into_iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fail;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fail> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        let read = seed.deserialize(StrDeserializer::new(key)).map_err(|fail: Fail| {
            // Its place is that of the field.
            Fail(node.named(fail).0, None)
        });
        self.value = Some(node);
        read.map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fail> {
        match self.value.take() {
            Some(node) => seeded(node, seed),
            None => Err(Fail::expected("a value")),
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

impl Node<'_> {
    fn stands_in(&self) -> Option<StandIn> {
        self.run.repairs.stands_in(&self.path).map(StandIn::new)
    }
}

impl<'de> VariantAccess<'de> for Node<'_> {
    type Error = Fail;

    fn unit_variant(self) -> Result<(), Fail> {
        match self.stands_in() {
            Some(_) => Ok(()),
            None => serde::Deserialize::deserialize(self),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fail> {
        seeded(self, seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fail> {
        match self.stands_in() {
            Some(other) => other.deserialize_tuple(len, visitor).map_err(|fail| self.named(fail)),
            None => self.any(visitor),
        }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fail> {
        match self.stands_in() {
            Some(other) => {
                let read = other.deserialize_struct("", fields, visitor);
                read.map_err(|fail| self.named(fail))
            }
            None => self.deserialize_struct("", fields, visitor),
        }
    }
}

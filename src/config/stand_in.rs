//! A value of any type, in place of one that does not fit: so that what comes after it can be read, too.

use serde::de::value::{MapDeserializer, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::typed::Fail;

/// Gives whatever is asked for. Types that take not every number or text get others in other turns.
#[derive(Clone, Copy)]
pub(super) struct StandIn {
    turn: usize,
    depth: usize,
}

/// Most turns that are of any use.
pub(super) const TURNS: usize = TEXTS.len() + OTHERS;

/// A type may ask for itself.
const MAX_DEPTH: usize = 16;

const NUMBERS: [u8; 6] = [1, 0, 2, 10, 100, 50];
const SHARES: [f64; 5] = [0.5, 1.0, 0.0, 10.0, 100.0];
const TEXTS: [&str; 20] = [
    "a",
    "0",
    "1",
    "127.0.0.1",
    "127.0.0.1:1",
    "http://a/",
    "1s",
    "true",
    "/",
    "::1",
    "10.0.0.0/8",
    "a.b",
    "a@b.c",
    "info",
    "1.0.0",
    "2000-01-01",
    "2000-01-01T00:00:00Z",
    "00000000-0000-4000-8000-000000000000",
    "1/s",
    "",
];
/// What a type that takes anything is given besides texts.
const OTHERS: usize = 7;

fn nth<T: Copy>(list: &[T], turn: usize) -> Option<T> {
    list.get(turn).or(list.last()).copied()
}

impl StandIn {
    pub(super) const fn new(turn: usize) -> Self {
        Self { turn, depth: 0 }
    }

    /// What is inside of it has half of the turns: the other half is its own.
    fn inner(self) -> Result<Self, Fail> {
        match self.depth {
            MAX_DEPTH => Err(Fail::custom("no type that never ends")),
            depth => Ok(Self { turn: self.turn / 2, depth: depth + 1 }),
        }
    }

    fn list<'de, V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_seq(Fields { stand_in: self, left: len, keys: [].iter() })
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $from:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
            visitor.$visit(nth(&NUMBERS, self.turn).unwrap_or_default() as $from)
        })+
    };
}

impl<'de> Deserializer<'de> for StandIn {
    type Error = Fail;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        let time = [("secs", 1_u64), ("nanos", 0)];
        match self.turn {
            0 => visitor.visit_str("a"),
            1 => visitor.visit_u64(1),
            2 => visitor.visit_bool(true),
            3 => visitor.visit_f64(0.5),
            4 => visitor.visit_unit(),
            5 => visitor.visit_map(MapDeserializer::new(time.into_iter())),
            6 => self.list(0, visitor),
            7 => self.deserialize_map(visitor),
            turn => visitor.visit_str(nth(&TEXTS, turn - OTHERS).unwrap_or_default()),
        }
    }

    #[expect(clippy::cast_possible_wrap, reason = "all are small")]
    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_i8(nth(&NUMBERS, self.turn).unwrap_or_default() as i8)
    }

    numbers! {
        deserialize_i16 visit_i16 i16
        deserialize_i32 visit_i32 i32
        deserialize_i64 visit_i64 i64
        deserialize_i128 visit_i128 i128
        deserialize_u8 visit_u8 u8
        deserialize_u16 visit_u16 u16
        deserialize_u32 visit_u32 u32
        deserialize_u64 visit_u64 u64
        deserialize_u128 visit_u128 u128
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_bool(self.turn == 0)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_f64(nth(&SHARES, self.turn).unwrap_or_default())
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_char('a')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_str(nth(&TEXTS, self.turn).unwrap_or_default())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_bytes(b"a")
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_none()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fail> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fail> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.list(self.turn.min(1), visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fail> {
        self.list(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Fail> {
        self.list(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_map(Fields { stand_in: self, left: 0, keys: [].iter() })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fail> {
        match self.turn % 2 {
            0 => self.list(fields.len(), visitor),
            _ => visitor.visit_map(Fields { stand_in: self, left: 0, keys: fields.iter() }),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fail> {
        let variant = variants.get(self.turn.checked_rem(variants.len()).unwrap_or(0));
        let variant = variant.ok_or_else(|| Fail::custom("no type without values"))?;
        visitor.visit_enum(Variant { variant, stand_in: self })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_unit()
    }
}

struct Fields {
    stand_in: StandIn,
    left: usize,
    keys: std::slice::Iter<'static, &'static str>,
}

impl<'de> SeqAccess<'de> for Fields {
    type Error = Fail;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fail> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(self.stand_in.inner()?).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Fail;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fail> {
        let Some(key) = self.keys.next() else { return Ok(None) };
        seed.deserialize(StrDeserializer::<Fail>::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fail> {
        seed.deserialize(self.stand_in.inner()?)
    }
}

struct Variant {
    variant: &'static str,
    stand_in: StandIn,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = Fail;
    type Variant = StandIn;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, StandIn), Fail> {
        let name = seed.deserialize(self.variant.into_deserializer())?;
        Ok((name, self.stand_in.inner()?))
    }
}

impl<'de> VariantAccess<'de> for StandIn {
    type Error = Fail;

    fn unit_variant(self) -> Result<(), Fail> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fail> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fail> {
        self.list(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fail> {
        self.deserialize_struct("", fields, visitor)
    }
}

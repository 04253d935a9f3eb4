//! JSON in one form only, the one that Python's `json.dumps` gives with sorted keys, no spaces and ASCII.

use std::fmt::Write;

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::ActionIdError as Error;
use super::key::KeyText;

pub(super) fn write<T: Serialize + ?Sized>(value: &T, out: &mut String) -> Result<(), Error> {
    value.serialize(Writer(out))
}

/// Under this name `serde_json` hands on the digits of a number that it does not read itself (its feature
/// `arbitrary_precision`, which any crate of a program can turn on).
const RAW_NUMBER: &str = "$serde_json::private::Number";

struct Writer<'a>(&'a mut String);

impl Writer<'_> {
    fn put(self, value: impl std::fmt::Display) -> Result<(), Error> {
        write!(self.0, "{value}").map_err(Error::custom)
    }
}

/// Everything but printable ASCII is escaped, in UTF-16 as JSON has it.
fn text(value: &str, out: &mut String) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing into a text does not fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// As Python's `repr`: the shortest digits that read back the same, with an exponent if the first digit
/// stands at 10^16 or further left, or right of 10^-4.
pub(super) fn float(value: f64) -> Result<String, Error> {
    if !value.is_finite() {
        return Err(Error(format!("{value} is not a number of JSON")));
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().map_err(Error::custom)?;
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return Ok(if plain.contains('.') { plain } else { plain + ".0" });
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    Ok(format!("{digits}e{sign}{:02}", exponent.unsigned_abs()))
}

/// Members of an object, which are sorted when all are known. By bytes, which for UTF-8 is by code point.
struct Object<'a> {
    out: &'a mut String,
    members: Vec<(String, String)>,
    key: Option<String>,
    /// Written behind it: it stands in an object of its own, as the value of a variant.
    close: &'static str,
}

impl<'a> Object<'a> {
    fn new(out: &'a mut String) -> Self {
        Self { out, members: vec![], key: None, close: "" }
    }

    fn member<T: Serialize + ?Sized>(&mut self, key: String, value: &T) -> Result<(), Error> {
        let mut written = String::new();
        write(value, &mut written)?;
        self.members.push((key, written));
        Ok(())
    }

    fn finish(mut self) -> Result<(), Error> {
        self.members.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Some(twice) = self.members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error(format!("the key {:?} occurs twice", twice[0].0)));
        }
        self.out.push('{');
        for (n, (key, value)) in self.members.iter().enumerate() {
            if n > 0 {
                self.out.push(',');
            }
            text(key, self.out);
            self.out.push(':');
            self.out.push_str(value);
        }
        self.out.push('}');
        self.out.push_str(self.close);
        Ok(())
    }
}

struct Array<'a> {
    out: &'a mut String,
    empty: bool,
    close: &'static str,
}

impl<'a> Array<'a> {
    fn new(out: &'a mut String) -> Self {
        out.push('[');
        Self { out, empty: true, close: "" }
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        write(value, self.out)
    }

    fn finish(self) {
        self.out.push(']');
        self.out.push_str(self.close);
    }
}

/// `{"variant":`, as `serde_json` writes variants with contents.
fn variant(name: &str, out: &mut String) {
    out.push('{');
    text(name, out);
    out.push(':');
}

/// What a struct turns out to be.
enum Fields<'a> {
    Object(Object<'a>),
    Number(&'a mut String),
}

impl<'a> Serializer for Writer<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Array<'a>;
    type SerializeTuple = Array<'a>;
    type SerializeTupleStruct = Array<'a>;
    type SerializeTupleVariant = Array<'a>;
    type SerializeMap = Object<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Object<'a>;

    fn serialize_bool(self, v: bool) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_i8(self, v: i8) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_i16(self, v: i16) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_i32(self, v: i32) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_i64(self, v: i64) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_i128(self, v: i128) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_u8(self, v: u8) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_u16(self, v: u16) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_u32(self, v: u32) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_u64(self, v: u64) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_u128(self, v: u128) -> Result<(), Error> {
        self.put(v)
    }

    fn serialize_f32(self, v: f32) -> Result<(), Error> {
        self.serialize_f64(f64::from(v))
    }

    fn serialize_f64(self, v: f64) -> Result<(), Error> {
        self.put(float(v)?)
    }

    fn serialize_char(self, v: char) -> Result<(), Error> {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, v: &str) -> Result<(), Error> {
        text(v, self.0);
        Ok(())
    }

    /// As `serde_json`: JSON has no bytes.
    fn serialize_bytes(self, v: &[u8]) -> Result<(), Error> {
        v.serialize(self)
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.put("null")
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        variant(name, self.0);
        write(value, self.0)?;
        self.0.push('}');
        Ok(())
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Array<'a>, Error> {
        Ok(Array::new(self.0))
    }

    fn serialize_tuple(self, _len: usize) -> Result<Array<'a>, Error> {
        Ok(Array::new(self.0))
    }

    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Array<'a>, Error> {
        Ok(Array::new(self.0))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        name: &'static str,
        _len: usize,
    ) -> Result<Array<'a>, Error> {
        variant(name, self.0);
        Ok(Array { close: "}", ..Array::new(self.0) })
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Object<'a>, Error> {
        Ok(Object::new(self.0))
    }

    fn serialize_struct(self, name: &'static str, _len: usize) -> Result<Fields<'a>, Error> {
        Ok(match name {
            RAW_NUMBER => Fields::Number(self.0),
            _ => Fields::Object(Object::new(self.0)),
        })
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        name: &'static str,
        _len: usize,
    ) -> Result<Object<'a>, Error> {
        variant(name, self.0);
        Ok(Object { close: "}", ..Object::new(self.0) })
    }
}

macro_rules! array {
    ($($trait:ident $method:ident)*) => {
        $(impl $trait for Array<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.element(value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish();
                Ok(())
            }
        })*
    };
}

array!(SerializeSeq serialize_element SerializeTuple serialize_element);
array!(SerializeTupleStruct serialize_field SerializeTupleVariant serialize_field);

impl SerializeMap for Object<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.key = Some(key.serialize(KeyText)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let key = self.key.take().ok_or_else(|| Error("a value without a key".into()))?;
        self.member(key, value)
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

impl SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        match self {
            Self::Object(object) => object.member(key.to_owned(), value),
            Self::Number(out) => {
                let digits = value.serialize(KeyText)?;
                // Whole numbers as they are, however long; Python has no bound either.
                if digits.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
                    out.push_str(if digits == "-0" { "0" } else { &digits });
                } else {
                    out.push_str(&float(digits.parse().map_err(Error::custom)?)?);
                }
                Ok(())
            }
        }
    }

    fn end(self) -> Result<(), Error> {
        match self {
            Self::Object(object) => object.finish(),
            Self::Number(_) => Ok(()),
        }
    }
}

impl SerializeStructVariant for Object<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.member(key.to_owned(), value)
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

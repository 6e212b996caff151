//! Properties from annotations: `org.systemd.property.NAME`, with a value in GVariant's text form ("GVariant Text Format").
//!
//! Of that form what a unit's properties take: `true`, numbers (`5`, `-1`, `0x10`, `2.5`), texts in either quotes, arrays
//! of those, and the type before the value (`uint64 5`, `@as []`, `@t 5`). A number without a type is an `int32`, or a
//! `double` with a point, as GVariant has it.

use std::iter::Peekable;
use std::str::Chars;

use zbus::Variant;

use super::Property;

/// What a property's annotation begins with.
const PREFIX: &str = "org.systemd.property.";

/// The properties that annotations ask for, in the order of their names.
///
/// # Errors
/// The annotation, and what is wrong with it.
pub fn from_annotations<'a>(
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<Property>, String> {
    let mut all = Vec::new();
    for (annotation, text) in annotations {
        let Some(name) = annotation.strip_prefix(PREFIX) else { continue };
        let property = of_annotation(name, text);
        all.push(property.map_err(|problem| format!("annotation {annotation}: {problem}"))?);
    }
    all.sort_by(|(name, _), (other, _)| name.cmp(other));
    Ok(all)
}

fn of_annotation(name: &str, text: &str) -> Result<Property, String> {
    let letters = name.len() >= 3 && name.chars().all(|c| c.is_ascii_alphanumeric());
    if !letters || !name.starts_with(|c: char| c.is_ascii_uppercase()) {
        return Err("is no name of a property".to_owned());
    }
    let value = parse(text)?;
    // Documented in seconds (TimeoutStopSec), a property of D-Bus in microseconds.
    match name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase())) {
        Some(stem) => Ok((format!("{stem}USec"), value.micros().ok_or("is no number of seconds")?.into())),
        None => Ok((name.to_owned(), value.into_variant()?)),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Bool(bool),
    Byte(u8),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    Path(String),
    /// Of one type, which an empty one must be told.
    Array(Type, Vec<Value>),
}

/// By its letter in a signature.
type Type = char;

/// Types and brackets around a value: an array, with its type before it, of texts with theirs.
const DEEPEST: u32 = 5;

/// The words for types, and the letters that may stand for them after an `@`.
const WORDS: [(&str, Type); 11] = [
    ("boolean", 'b'),
    ("byte", 'y'),
    ("int16", 'n'),
    ("uint16", 'q'),
    ("int32", 'i'),
    ("uint32", 'u'),
    ("int64", 'x'),
    ("uint64", 't'),
    ("double", 'd'),
    ("string", 's'),
    ("objectpath", 'o'),
];

impl Value {
    fn of_type(&self) -> Option<Type> {
        Some(match self {
            Value::Bool(_) => 'b',
            Value::Byte(_) => 'y',
            Value::Int16(_) => 'n',
            Value::Uint16(_) => 'q',
            Value::Int32(_) => 'i',
            Value::Uint32(_) => 'u',
            Value::Int64(_) => 'x',
            Value::Uint64(_) => 't',
            Value::Double(_) => 'd',
            Value::Text(_) => 's',
            Value::Path(_) => 'o',
            Value::Array(..) => return None,
        })
    }

    fn micros(&self) -> Option<u64> {
        let seconds = match *self {
            Value::Byte(value) => value.into(),
            Value::Int16(value) => u64::try_from(value).ok()?,
            Value::Uint16(value) => value.into(),
            Value::Int32(value) => u64::try_from(value).ok()?,
            Value::Uint32(value) => value.into(),
            Value::Int64(value) => u64::try_from(value).ok()?,
            Value::Uint64(value) => value,
            Value::Double(value) if value >= 0.0 && value < u64::MAX as f64 / 1e6 => return Some((value * 1e6) as u64),
            _ => return None,
        };
        seconds.checked_mul(1_000_000)
    }

    fn into_variant(self) -> Result<Variant<'static>, String> {
        Ok(match self {
            Value::Bool(value) => value.into(),
            Value::Byte(value) => value.into(),
            Value::Int16(value) => value.into(),
            Value::Uint16(value) => value.into(),
            Value::Int32(value) => value.into(),
            Value::Uint32(value) => value.into(),
            Value::Int64(value) => value.into(),
            Value::Uint64(value) => value.into(),
            Value::Double(value) => value.into(),
            Value::Text(value) => value.into(),
            Value::Path(value) => path(value)?.into(),
            Value::Array(of, items) => array(of, items)?,
        })
    }
}

fn path(text: String) -> Result<zbus::ObjectPath<'static>, String> {
    zbus::ObjectPath::try_from(text.clone()).map_err(|_| format!("{text:?} is no object path"))
}

fn array(of: Type, items: Vec<Value>) -> Result<Variant<'static>, String> {
    let signature = zbus::Signature::try_from(of.to_string().as_str()).map_err(|error| error.to_string())?;
    let mut array = zbus::Array::new(&signature);
    for item in items {
        array.append(item.into_variant()?).map_err(|error| error.to_string())?;
    }
    Ok(array.into())
}

fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text.chars().peekable(), depth: 0 };
    let value = parser.value(None)?;
    parser.skip_spaces();
    match parser.rest.next() {
        None => Ok(value),
        Some(_) => Err(format!("{text:?} has more than one value")),
    }
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    /// Types and brackets around the place.
    depth: u32,
}

impl Parser<'_> {
    fn skip_spaces(&mut self) {
        while self.rest.next_if(char::is_ascii_whitespace).is_some() {}
    }

    /// `wanted`: the type that was told before it, or that its neighbours in an array have.
    fn value(&mut self, wanted: Option<Type>) -> Result<Value, String> {
        if self.depth == DEEPEST {
            return Err("has too many types and brackets around a value".to_owned());
        }
        self.depth += 1;
        let value = self.value_here(wanted);
        self.depth -= 1;
        value
    }

    fn value_here(&mut self, wanted: Option<Type>) -> Result<Value, String> {
        self.skip_spaces();
        match self.rest.peek() {
            Some('[') => self.array(None),
            Some('\'' | '"') => self.text(wanted),
            Some('@') => self.annotated(),
            Some(_) => self.word(wanted),
            None => Err("has no value".to_owned()),
        }
    }

    fn annotated(&mut self) -> Result<Value, String> {
        self.rest.next();
        let mut signature = String::new();
        while let Some(letter) = self.rest.next_if(char::is_ascii_alphanumeric) {
            signature.push(letter);
        }
        let known =
            |letter: &str| WORDS.iter().find(|(_, known)| letter.parse() == Ok(*known)).map(|(_, known)| *known);
        self.skip_spaces();
        match (known(&signature), signature.strip_prefix('a').and_then(known)) {
            (Some(of), _) => self.value(Some(of)),
            (None, Some(of)) if self.rest.peek() == Some(&'[') => self.array(Some(of)),
            _ => Err(format!("type @{signature} is not known here")),
        }
    }

    fn array(&mut self, mut of: Option<Type>) -> Result<Value, String> {
        self.rest.next();
        let mut items = Vec::new();
        loop {
            self.skip_spaces();
            match self.rest.peek() {
                Some(']') => break,
                Some(',') if !items.is_empty() => drop(self.rest.next()),
                _ if items.is_empty() => {}
                _ => return Err("an array ends in ], and its items have commas between them".to_owned()),
            }
            let item = self.value(of)?;
            let found = item.of_type().ok_or("an array of arrays is not known here")?;
            if *of.get_or_insert(found) != found {
                return Err("the items of an array have different types".to_owned());
            }
            items.push(item);
        }
        self.rest.next();
        let of = of.ok_or("an empty array needs its type: @as []")?;
        Ok(Value::Array(of, items))
    }

    fn text(&mut self, wanted: Option<Type>) -> Result<Value, String> {
        let quote = self.rest.next();
        let mut text = String::new();
        loop {
            match self.rest.next().ok_or("a text has no closing quote")? {
                letter if Some(letter) == quote => break,
                '\\' => text.push(self.escaped()?),
                '\0' => return Err("a text has a NUL".to_owned()),
                letter => text.push(letter),
            }
        }
        match wanted {
            None | Some('s') => Ok(Value::Text(text)),
            Some('o') => Ok(Value::Path(text)),
            Some(_) => Err(format!("{text:?} is not of its type")),
        }
    }

    fn escaped(&mut self) -> Result<char, String> {
        let letter = self.rest.next().ok_or("a text has no closing quote")?;
        let digits = match letter {
            'n' => return Ok('\n'),
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            'u' => 4,
            'U' => 8,
            letter if letter.is_ascii_alphanumeric() => return Err(format!("a text has \\{letter}")),
            letter => return Ok(letter),
        };
        let number: String = self.rest.by_ref().take(digits).collect();
        let letter = u32::from_str_radix(&number, 16).ok().and_then(char::from_u32).filter(|letter| *letter != '\0');
        letter.ok_or_else(|| format!("{number} is no character's number"))
    }

    fn word(&mut self, wanted: Option<Type>) -> Result<Value, String> {
        let mut word = String::new();
        while let Some(letter) = self.rest.next_if(|letter| letter.is_ascii_alphanumeric() || "+-._".contains(*letter))
        {
            word.push(letter);
        }
        if let Some((_, of)) = WORDS.iter().find(|(known, _)| *known == word) {
            return self.value(Some(*of));
        }
        match (word.as_str(), wanted) {
            ("true", None | Some('b')) => Ok(Value::Bool(true)),
            ("false", None | Some('b')) => Ok(Value::Bool(false)),
            (number, wanted) => self::number(number, wanted)
                .ok_or_else(|| format!("{word:?} is no value{}", if wanted.is_some() { " of its type" } else { "" })),
        }
    }
}

fn number(text: &str, wanted: Option<Type>) -> Option<Value> {
    let digits = text.trim_start_matches(['-', '+']);
    let is_double = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && !digits.starts_with("0x")
        && digits.contains(['.', 'e', 'E']);
    if wanted == Some('d') || (wanted.is_none() && is_double) {
        return text.parse().ok().filter(|value: &f64| value.is_finite()).map(Value::Double);
    }
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) => i128::from(u64::from_str_radix(hex, 16).ok()?),
        None => i128::from(digits.parse::<u64>().ok()?),
    };
    let value = match text.len() - digits.len() {
        0 => magnitude,
        1 if text.starts_with('-') => -magnitude,
        1 => magnitude,
        _ => return None,
    };
    Some(match wanted.unwrap_or('i') {
        'y' => Value::Byte(value.try_into().ok()?),
        'n' => Value::Int16(value.try_into().ok()?),
        'q' => Value::Uint16(value.try_into().ok()?),
        'i' => Value::Int32(value.try_into().ok()?),
        'u' => Value::Uint32(value.try_into().ok()?),
        'x' => Value::Int64(value.try_into().ok()?),
        't' => Value::Uint64(value.try_into().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_type_that_their_text_says() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (written, value) in [
            ("true", Value::Bool(true)),
            (" boolean false ", Value::Bool(false)),
            ("5", Value::Int32(5)),
            ("-1", Value::Int32(-1)),
            ("uint64 5", Value::Uint64(5)),
            ("@t 18446744073709551615", Value::Uint64(u64::MAX)),
            ("int64 -0x10", Value::Int64(-16)),
            ("byte 0xff", Value::Byte(255)),
            ("2.5", Value::Double(2.5)),
            ("double 3", Value::Double(3.0)),
            ("'inactive-or-failed'", text("inactive-or-failed")),
            (r#""a\"b\u00e9\n""#, text("a\"bé\n")),
            ("objectpath '/a'", Value::Path("/a".to_owned())),
            ("['a', \"b\"]", Value::Array('s', vec![text("a"), text("b")])),
            ("@as []", Value::Array('s', Vec::new())),
            ("@au [1,2]", Value::Array('u', vec![Value::Uint32(1), Value::Uint32(2)])),
            ("[uint64 1, 2]", Value::Array('t', vec![Value::Uint64(1), Value::Uint64(2)])),
        ] {
            assert_eq!(parse(written), Ok(value.clone()), "{written}");
            value.into_variant().unwrap();
        }
        for wrong in [
            "",
            "yes",
            "'a",
            "5 6",
            "[]",
            "[1, 'a']",
            "[1 2]",
            "[1",
            "byte 256",
            "uint64 -1",
            "--5",
            "@v 1",
            "[[1]]",
            "1e",
            "string 5",
            r"'\q'",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}: {:?}", parse(wrong));
        }
        for endless in ["byte ", "@t ", "["] {
            assert!(parse(&endless.repeat(1_000_000)).is_err(), "{endless}");
        }
        assert!(parse("objectpath 'x'").unwrap().into_variant().is_err());
    }

    #[test]
    fn seconds_become_microseconds_and_names_are_checked() {
        let of = |name: &str, text: &str| of_annotation(name, text).map(|(name, value)| (name, format!("{value:?}")));
        assert_eq!(
            of("TimeoutStopSec", "uint64 2").unwrap(),
            ("TimeoutStopUSec".to_owned(), "U64(2000000)".to_owned())
        );
        assert_eq!(of("TimeoutStopSec", "0.25").unwrap(), ("TimeoutStopUSec".to_owned(), "U64(250000)".to_owned()));
        assert_eq!(of("CollectMode", "'x'").unwrap().0, "CollectMode");
        assert_eq!(of("TimeoutStopUSec", "uint64 2").unwrap().0, "TimeoutStopUSec");
        for (name, text) in [
            ("TimeoutStopSec", "'soon'"),
            ("TimeoutStopSec", "-1"),
            ("Ab", "1"),
            ("memoryMax", "1"),
            ("A b", "1"),
            ("", "1"),
        ] {
            assert!(of(name, text).is_err(), "{name}={text}");
        }
    }
}

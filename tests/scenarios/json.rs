//! JSON as far as the tests need it: a strict reader, and the part of JSON Schema that tests/control uses.
//!
//! A schema with a word that is not understood here is refused, so that nothing in it goes unchecked.

use std::collections::BTreeMap;
use std::ops::Index;

#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    /// As it was written: 64-bit counts are compared exactly.
    Number(String),
    String(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    pub fn read(text: &str) -> Result<Json, String> {
        let mut reader = Reader { text: text.as_bytes(), at: 0 };
        let value = reader.value()?;
        reader.blanks();
        if reader.at == text.len() { Ok(value) } else { Err(reader.complaint("the end")) }
    }

    /// A whole number.
    pub fn number(&self) -> u64 {
        match self {
            Json::Number(digits) => digits.parse().unwrap_or_else(|_| panic!("{digits} is no whole number")),
            other => panic!("{other:?} is no number"),
        }
    }

    pub fn float(&self) -> f64 {
        match self {
            Json::Number(digits) => digits.parse().expect("a number"),
            other => panic!("{other:?} is no number"),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Json::String(text) => text,
            other => panic!("{other:?} is no string"),
        }
    }

    pub fn items(&self) -> &[Json] {
        match self {
            Json::Array(items) => items,
            other => panic!("{other:?} is no array"),
        }
    }

    pub fn fields(&self) -> &BTreeMap<String, Json> {
        match self {
            Json::Object(fields) => fields,
            other => panic!("{other:?} is no object"),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "boolean",
            Json::Number(digits) if digits.contains(['.', 'e', 'E']) => "number",
            Json::Number(_) => "integer",
            Json::String(_) => "string",
            Json::Array(_) => "array",
            Json::Object(_) => "object",
        }
    }
}

impl Index<&str> for Json {
    type Output = Json;

    fn index(&self, name: &str) -> &Json {
        self.fields().get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn complaint(&self, expected: &str) -> String {
        let rest = String::from_utf8_lossy(&self.text[self.at..]);
        let rest: String = rest.chars().take(40).collect();
        format!("byte {}: expected {expected}, found {rest:?}", self.at)
    }

    fn blanks(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    fn next(&mut self) -> Option<u8> {
        self.blanks();
        self.text.get(self.at).copied()
    }

    fn take(&mut self, word: &str) -> bool {
        self.blanks();
        let taken = self.text[self.at..].starts_with(word.as_bytes());
        self.at += if taken { word.len() } else { 0 };
        taken
    }

    fn want(&mut self, word: &str) -> Result<(), String> {
        if self.take(word) { Ok(()) } else { Err(self.complaint(word)) }
    }

    fn value(&mut self) -> Result<Json, String> {
        match self.next() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.take("null") => Ok(Json::Null),
            _ if self.take("true") => Ok(Json::Bool(true)),
            _ if self.take("false") => Ok(Json::Bool(false)),
            _ => Err(self.complaint("a value")),
        }
    }

    fn object(&mut self) -> Result<Json, String> {
        let mut fields = BTreeMap::new();
        self.want("{")?;
        while !self.take("}") {
            if !fields.is_empty() {
                self.want(",")?;
            }
            let name = self.string()?;
            self.want(":")?;
            let value = self.value()?;
            if fields.insert(name.clone(), value).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        Ok(Json::Object(fields))
    }

    fn array(&mut self) -> Result<Json, String> {
        let mut items = Vec::new();
        self.want("[")?;
        while !self.take("]") {
            if !items.is_empty() {
                self.want(",")?;
            }
            items.push(self.value()?);
        }
        Ok(Json::Array(items))
    }

    /// Without escapes, which neither pepsal nor the schemas use.
    fn string(&mut self) -> Result<String, String> {
        self.want("\"")?;
        let start = self.at;
        while !matches!(self.text.get(self.at), None | Some(b'"' | b'\\' | 0..0x20)) {
            self.at += 1;
        }
        let text = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
        self.want("\"")?;
        Ok(text)
    }

    fn number(&mut self) -> Result<Json, String> {
        let start = self.at;
        while matches!(self.text.get(self.at), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let digits = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
        let leading_zero = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
        match digits.parse::<f64>() {
            Ok(_) if !leading_zero && !digits.ends_with('.') => Ok(Json::Number(digits)),
            _ => Err(format!("{digits} is no number")),
        }
    }
}

/// What is wrong with `value` by `schema`; empty if nothing is.
pub fn faults(schema: &Json, value: &Json) -> Vec<String> {
    let mut faults = Vec::new();
    check(schema, schema, value, "", &mut faults);
    faults
}

fn check(root: &Json, schema: &Json, value: &Json, at: &str, faults: &mut Vec<String>) {
    let mut fault = |what: String| faults.push(format!("{at}: {what}"));
    let none = BTreeMap::new();
    let properties = schema.fields().get("properties").map_or(&none, Json::fields);
    for (word, rule) in schema.fields() {
        match (word.as_str(), value) {
            ("$schema" | "title" | "description" | "$defs" | "properties" | "items", _) => {}
            ("$ref", _) => {
                let name = rule.text().strip_prefix("#/$defs/").expect("a reference within the schema");
                check(root, &root["$defs"][name], value, at, faults);
                return;
            }
            ("type", _) => {
                let kinds: Vec<&str> = match rule {
                    Json::Array(kinds) => kinds.iter().map(Json::text).collect(),
                    kind => vec![kind.text()],
                };
                let kind = value.kind();
                let whole = kind == "integer" && kinds.contains(&"number");
                if !kinds.contains(&kind) && !whole {
                    fault(format!("{kind} instead of {kinds:?}"));
                }
            }
            ("enum", _) if !rule.items().contains(value) => fault(format!("{value:?} is not in {rule:?}")),
            ("minimum", Json::Number(_)) if value.float() < rule.float() => fault(format!("{value:?}")),
            ("maxItems", Json::Array(items)) if items.len() as u64 > rule.number() => {
                fault(format!("{} items", items.len()));
            }
            ("required", Json::Object(fields)) => {
                for name in rule.items().iter().filter(|name| !fields.contains_key(name.text())) {
                    fault(format!("{} is missing", name.text()));
                }
            }
            ("additionalProperties", Json::Object(fields)) if *rule == Json::Bool(false) => {
                for name in fields.keys().filter(|name| !properties.contains_key(*name)) {
                    fault(format!("{name} is not in the schema"));
                }
            }
            ("enum" | "minimum" | "maxItems" | "required" | "additionalProperties", _) => {}
            _ => panic!("{at}: this checker does not know the schema's word {word}"),
        }
    }
    match value {
        Json::Object(fields) => {
            for (name, value) in fields {
                if let Some(schema) = properties.get(name) {
                    check(root, schema, value, &format!("{at}/{name}"), faults);
                }
            }
        }
        Json::Array(items) => {
            let Some(schema) = schema.fields().get("items") else {
                return;
            };
            for (index, value) in items.iter().enumerate() {
                check(root, schema, value, &format!("{at}/{index}"), faults);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Json {
        Json::read(
            r##"{"type": "object", "additionalProperties": false, "required": ["a"], "properties": {
                "a": {"type": ["integer", "null"], "minimum": 1},
                "b": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/word"}}},
              "$defs": {"word": {"enum": ["x", "y"]}}}"##,
        )
        .expect("a schema")
    }

    #[test]
    fn the_checker_finds_what_is_wrong() {
        let right = [r#"{"a":1}"#, r#"{"a":null,"b":[]}"#, r#"{"a":18446744073709551615,"b":["x","y"]}"#];
        for text in right {
            assert_eq!(faults(&schema(), &Json::read(text).expect("JSON")), [""; 0], "{text}");
        }
        let wrong = [
            r#"{}"#,
            r#"{"a":0}"#,
            r#"{"a":"1"}"#,
            r#"{"a":1.5}"#,
            r#"{"a":1,"c":2}"#,
            r#"{"a":1,"b":["z"]}"#,
            r#"{"a":1,"b":["x","x","x"]}"#,
            r#"{"a":1,"b":{}}"#,
            r#"[]"#,
        ];
        for text in wrong {
            assert!(!faults(&schema(), &Json::read(text).expect("JSON")).is_empty(), "{text}");
        }
    }

    #[test]
    fn the_reader_takes_json_only() {
        for bad in
            ["", "{", "{}{}", "[1,]", "[,1]", r#"{"a" 1}"#, r#"{"a":1,"a":1}"#, "01", "1.", "nul", "\"a"]
        {
            assert!(Json::read(bad).is_err(), "{bad}");
        }
        let all = Json::read(r#" { "a" : [ 1 , -2.5e3 , true , null , "x" ] } "#).expect("JSON");
        assert_eq!(all["a"].items().len(), 5);
        assert_eq!(all["a"].items()[4].text(), "x");
    }
}

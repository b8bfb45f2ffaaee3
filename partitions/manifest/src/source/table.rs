//! Typed access to TOML values that tells what is wrong and goes on.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Report;
use crate::size::Size;

/// A key that a table may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// A right one, for messages.
    pub(super) example: &'static str,
}

/// A table whose keys are all known.
#[derive(Debug)]
pub(super) struct Table<'a> {
    entries: &'a DeTable<'a>,
    keys: &'static [Key],
    path: String,
    line: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) path: String,
    line: usize,
    example: &'static str,
    value: &'a DeValue<'a>,
}

impl<'a> Table<'a> {
    /// The table at `path`; the root's path is empty. Unknown keys are errors.
    pub(super) fn open(
        report: &mut Report,
        entries: &'a DeTable<'a>,
        path: &str,
        line: usize,
        keys: &'static [Key],
    ) -> Self {
        let table = Self {
            entries,
            keys,
            path: path.to_owned(),
            line,
        };
        report.lines.insert(path, line);
        for key in entries.keys() {
            let path = table.path_of(key.get_ref());
            let line = report.lines.at(key.span().start);
            report.lines.insert(&path, line);
            if !keys.iter().any(|known| known.name == key.get_ref()) {
                report.error(&path, line, unknown(key.get_ref(), keys));
            }
        }
        table
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value of `name`, if it is there.
    pub(super) fn get(&self, report: &Report, name: &str) -> Option<Field<'a>> {
        let value = self.entries.get(name)?;
        let path = self.path_of(name);
        let line = report.lines.of(&path);
        let example = self
            .keys
            .iter()
            .find(|key| key.name == name)
            .map_or("", |key| key.example);
        Some(Field {
            path,
            line,
            example,
            value: value.get_ref(),
        })
    }

    /// The value of `name`; its absence is an error.
    pub(super) fn need(&self, report: &mut Report, name: &str) -> Option<Field<'a>> {
        let field = self.get(report, name);
        if field.is_none() {
            let example = self
                .keys
                .iter()
                .find(|key| key.name == name)
                .map_or("", |key| key.example);
            report.error(
                &self.path_of(name),
                self.line,
                format!("missing; add {example}"),
            );
        }
        field
    }
}

impl<'a> Field<'a> {
    /// Tells that the value is wrong.
    pub(super) fn fail(&self, report: &mut Report, message: String) {
        report.error(&self.path, self.line, message);
    }

    /// A right value, for messages.
    pub(super) fn example(&self) -> &'static str {
        self.example
    }

    fn wrong_type(&self, report: &mut Report) {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a bare number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fail(
            report,
            format!("{found} does not fit here; write {}", self.example),
        );
    }

    fn expect<T>(&self, report: &mut Report, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.wrong_type(report);
        }
        value
    }

    pub(super) fn as_table(&self, report: &mut Report, keys: &'static [Key]) -> Option<Table<'a>> {
        let entries = self.expect(report, self.value.as_table())?;
        Some(Table::open(report, entries, &self.path, self.line, keys))
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// The elements of a list of at most `most`.
    pub(super) fn as_list(&self, report: &mut Report, most: usize) -> Option<Vec<Self>> {
        let list = self.expect(report, self.value.as_array())?;
        if list.len() > most {
            self.fail(
                report,
                format!("{} of them are too many; use at most {most}", list.len()),
            );
            return None;
        }
        let element = |(position, value): (usize, &'a Spanned<DeValue<'a>>)| {
            let path = format!("{}[{position}]", self.path);
            let line = report.lines.at(value.span().start);
            report.lines.insert(&path, line);
            Self {
                path,
                line,
                example: self.example,
                value: value.get_ref(),
            }
        };
        Some(list.iter().enumerate().map(element).collect())
    }

    pub(super) fn as_bool(&self, report: &mut Report) -> Option<bool> {
        self.expect(report, self.value.as_bool())
    }

    pub(super) fn as_str(&self, report: &mut Report) -> Option<&'a str> {
        self.expect(report, self.value.as_str())
    }

    /// A string of at most `N` bytes.
    pub(super) fn as_text<const N: usize>(
        &self,
        report: &mut Report,
    ) -> Option<heapless::String<N>> {
        let text = self.as_str(report)?;
        let fitting = heapless::String::try_from(text).ok();
        if fitting.is_none() {
            self.fail(
                report,
                format!("{} bytes are too long; use at most {N}", text.len()),
            );
        }
        fitting
    }

    /// A whole number from `least` to `most`.
    pub(super) fn as_number(&self, report: &mut Report, least: u32, most: u32) -> Option<u32> {
        let integer = self.expect(report, self.value.as_integer())?;
        let value = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        let value = value.filter(|value| (least..=most).contains(value));
        if value.is_none() {
            let range = match integer.radix() {
                16 => format!("{least:#x} to {most:#x}"),
                _ => format!("{least} to {most}"),
            };
            let example = self.example;
            self.fail(
                report,
                format!("{integer} is out of range; use {range}, as in {example}"),
            );
        }
        value
    }

    /// A size with its unit, bytes.
    pub(super) fn as_size(&self, report: &mut Report) -> Option<u64> {
        let example = self.example;
        if let Some(integer) = self.value.as_integer() {
            self.fail(
                report,
                format!("{integer} has no unit; write a string with K, M or G, as in {example}"),
            );
            return None;
        }
        let text = self.as_str(report)?;
        let size = Size::parse(text);
        if size.is_none() {
            self.fail(
                report,
                format!(
                    "\"{}\" is no size; write a whole number and K, M or G, as in {example}",
                    text.escape_debug()
                ),
            );
        }
        size.map(|size| size.0)
    }

    /// A time with its unit, at least a second; seconds.
    pub(super) fn as_seconds(&self, report: &mut Report) -> Option<u32> {
        let example = self.example;
        let text = self.as_str(report)?;
        let units = [('s', 1), ('m', 60), ('h', 3600)];
        let seconds = units.into_iter().find_map(|(letter, unit)| {
            let digits = text.strip_suffix(letter)?;
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let number = digits.parse::<u32>().ok()?;
            number.checked_mul(unit).filter(|&seconds| seconds > 0)
        });
        if seconds.is_none() {
            self.fail(
                report,
                format!(
                    "\"{}\" is no time; write a whole number and s, m or h, as in {example}",
                    text.escape_debug()
                ),
            );
        }
        seconds
    }

    /// One of the names in `values`.
    pub(super) fn as_choice<T: Copy>(
        &self,
        report: &mut Report,
        values: &[(&'static str, T)],
    ) -> Option<T> {
        let text = self.as_str(report)?;
        let found = values.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let names: Vec<_> = values.iter().map(|&(name, _)| name).collect();
            let near = did_you_mean(text, names.iter().copied());
            let all = names.join("\", \"");
            let text = text.escape_debug();
            self.fail(
                report,
                format!("\"{text}\" is unknown;{near} use one of \"{all}\""),
            );
        }
        found.map(|&(_, value)| value)
    }
}

fn unknown(key: &str, keys: &[Key]) -> String {
    let names: Vec<_> = keys.iter().map(|known| known.name).collect();
    let near = did_you_mean(key, names.iter().copied());
    format!(
        "unknown key;{near} what may stand here: {}",
        names.join(", ")
    )
}

/// ` did you mean "X"?` with a leading blank, or nothing when none is near.
fn did_you_mean<'n>(text: &str, names: impl Iterator<Item = &'n str>) -> String {
    let distance = |name: &str| {
        if name.starts_with(text) && text.len() >= 2 {
            1
        } else {
            strsim::osa_distance(text, name)
        }
    };
    let nearest = names.min_by_key(|name| distance(name));
    let near = nearest.filter(|name| distance(name) <= (name.len() / 3).max(2));
    near.map_or_else(String::new, |name| format!(" did you mean \"{name}\"?"))
}

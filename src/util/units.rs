//! Durations, sizes and ratios as they are written in the configuration: one integer (a share may
//! have decimals), one unit, nothing between. A text that is not one says what to write instead.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What is wrong with a text, and what to write instead where that can be guessed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct UnitError {
    pub cause: String,
    pub suggestion: Option<String>,
}

impl UnitError {
    pub(super) fn new(cause: impl Into<String>) -> Self {
        UnitError {
            cause: cause.into(),
            suggestion: None,
        }
    }

    pub(super) fn suggest(cause: impl Into<String>, suggestion: String) -> Self {
        UnitError {
            cause: cause.into(),
            suggestion: Some(suggestion),
        }
    }
}

/// Regular expressions of what the parsers take, for the JSON Schema.
pub const DURATION_PATTERN: &str = "[0-9]+(ms|s|m|h|d)";
pub const SIZE_PATTERN: &str = "[0-9]+(B|kB|KB|MB|GB|KiB|MiB|GiB)";
pub const PERCENT_PATTERN: &str = "(100(\\.0{1,4})?|[0-9]{1,2}(\\.[0-9]{1,4})?)%";

/// More than this is a slip of the pen, and arithmetic with clocks stays far from overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(365 * 86_400);
/// 1 PiB: far from overflow in sums.
pub const MAX_SIZE: u64 = 1 << 50;

const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];
const SIZE_UNITS: [(&str, u64); 8] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Reads `"250ms"`, `"2s"`, `"5m"`, `"1h"`, `"7d"`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(
        text,
        "a duration is a number and a unit, like \"250ms\" or \"2s\"",
    )?;
    if unit.is_empty() {
        return Err(UnitError::suggest(
            "the unit is missing",
            format!("\"{number}s\""),
        ));
    }
    let Some((_, factor)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
        let cause = format!("`{unit}` is not a unit of time; there are ms, s, m, h and d");
        return Err(match closest_time_unit(unit) {
            Some(known) => UnitError::suggest(cause, format!("\"{number}{known}\"")),
            None => UnitError::new(cause),
        });
    };
    let millis = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor));
    millis
        .map(Duration::from_millis)
        .filter(|duration| *duration <= MAX_DURATION)
        .ok_or_else(|| UnitError::new("longer than 365d"))
}

fn closest_time_unit(unit: &str) -> Option<&'static str> {
    match unit.to_ascii_lowercase().as_str() {
        "ms" | "msec" | "millis" | "milliseconds" | "millisecond" => Some("ms"),
        "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
        "m" | "min" | "mins" | "minute" | "minutes" => Some("m"),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
        "d" | "day" | "days" => Some("d"),
        _ => None,
    }
}

/// Writes a duration so that [`parse_duration`] reads it back; parts under a millisecond are cut.
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let exact = |(_, factor): &&(&str, u64)| millis.is_multiple_of(u128::from(*factor));
    // Days are for reading only: "24h" stays "24h".
    let (unit, factor) = DURATION_UNITS[..4]
        .iter()
        .rev()
        .find(exact)
        .unwrap_or(&("ms", 1));
    format!("{}{unit}", millis / u128::from(*factor))
}

/// Splits `text` into its leading digits and the rest.
fn split<'a>(text: &'a str, shape: &str) -> Result<(&'a str, &'a str), UnitError> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() {
        return Err(UnitError::new(shape));
    }
    if unit.starts_with(['.', ',']) {
        return Err(UnitError::new("whole numbers only; use a smaller unit"));
    }
    if unit.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        let compact: String = text.split_whitespace().collect();
        return Err(UnitError::suggest(
            "no space between number and unit",
            format!("\"{compact}\""),
        ));
    }
    if unit.contains(|c: char| c.is_ascii_digit()) {
        return Err(UnitError::new("one number and one unit only"));
    }
    Ok((number, unit))
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text, "a size is a number and a unit, like \"64KiB\"")?;
        if unit.is_empty() {
            return Err(UnitError::suggest(
                "the unit is missing",
                format!("\"{number}B\""),
            ));
        }
        let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
            let cause = format!(
                "`{unit}` is not a unit of size; there are B, KiB, MiB, GiB, KB, MB and GB"
            );
            let known = match unit.to_ascii_lowercase().as_str() {
                "b" | "byte" | "bytes" => "B",
                "k" | "kb" | "kib" | "ki" => "KiB",
                "m" | "mb" | "mib" | "mi" => "MiB",
                "g" | "gb" | "gib" | "gi" => "GiB",
                _ => return Err(UnitError::new(cause)),
            };
            return Err(UnitError::suggest(cause, format!("\"{number}{known}\"")));
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*factor));
        bytes
            .filter(|bytes| *bytes <= MAX_SIZE)
            .map(ByteSize)
            .ok_or_else(|| UnitError::new("larger than 1048576GiB"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, factor): &&(&str, u64)| self.0 > 0 && self.0.is_multiple_of(*factor);
        let (unit, factor) = SIZE_UNITS[..4]
            .iter()
            .rev()
            .find(exact)
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// A share between 0 and 100 percent, kept as a fraction of one.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// `fraction` is clamped to 0.0..=1.0; what is not a number is 0.
    pub fn from_fraction(fraction: f64) -> Self {
        Percent(if fraction.is_nan() {
            0.0
        } else {
            fraction.clamp(0.0, 1.0)
        })
    }

    /// The share as a fraction, 0.0..=1.0.
    pub fn fraction(self) -> f64 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let Some(number) = text.strip_suffix('%') else {
            let cause = "a share is a number and a percent sign, like \"20%\"";
            return Err(match text.parse::<f64>() {
                Ok(number) if (0.0..=100.0).contains(&number) => {
                    UnitError::suggest("the percent sign is missing", format!("\"{text}%\""))
                }
                _ => UnitError::new(cause),
            });
        };
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 4 || whole.len() > 3 {
            return Err(UnitError::new(
                "a share is 0% to 100%, with at most four decimals",
            ));
        }
        match number.parse::<f64>() {
            Ok(number) if number <= 100.0 => Ok(Percent(number / 100.0)),
            _ => Err(UnitError::new("more than 100%")),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Four decimals are what can be written; a product of floats shows more.
        write!(f, "{}%", (self.0 * 1_000_000.0).round() / 10_000.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_sizes_and_shares_read_as_written() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!("64KiB".parse(), Ok(ByteSize(65_536)));
        assert_eq!("1MB".parse(), Ok(ByteSize(1_000_000)));
        assert_eq!("12.5%".parse(), Ok(Percent::from_fraction(0.125)));
    }

    #[test]
    fn bare_numbers_suggest_a_unit() {
        let suggestion = |error: UnitError| error.suggestion.unwrap_or_default();
        assert_eq!(
            parse_duration("5").map_err(suggestion),
            Err("\"5s\"".to_owned())
        );
        assert_eq!(
            parse_duration("5 sec").map_err(suggestion),
            Err("\"5sec\"".to_owned())
        );
        assert_eq!(
            parse_duration("5min").map_err(suggestion),
            Err("\"5m\"".to_owned())
        );
        assert_eq!(
            "64".parse::<ByteSize>().map_err(suggestion),
            Err("\"64B\"".to_owned())
        );
        assert_eq!(
            "8k".parse::<ByteSize>().map_err(suggestion),
            Err("\"8KiB\"".to_owned())
        );
        assert_eq!(
            "20".parse::<Percent>().map_err(suggestion),
            Err("\"20%\"".to_owned())
        );
    }

    #[test]
    fn too_much_is_refused_without_overflow() {
        for text in ["99999999999999999999s", "18446744073709551615h", "366d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!("18446744073709551615GiB".parse::<ByteSize>().is_err());
        assert!("100.1%".parse::<Percent>().is_err());
        assert!("-1%".parse::<Percent>().is_err());
        assert!("1e1%".parse::<Percent>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = (parse_duration(&text), text.parse::<ByteSize>(), text.parse::<Percent>());
        }

        #[test]
        fn digits_and_any_unit_never_panic(number in any::<u128>(), unit in "(ms|s|m|h|d|B|KiB|MB|GiB|%|\\PC)*") {
            let text = format!("{number}{unit}");
            let _ = (parse_duration(&text), text.parse::<ByteSize>(), text.parse::<Percent>());
        }

        #[test]
        fn durations_round_trip(millis in 0..=MAX_DURATION.as_millis() as u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_round_trip(bytes in 0..=MAX_SIZE) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn shares_round_trip(parts in 0..=1_000_000_u32) {
            let share: Percent = format!("{}.{:04}%", parts / 10_000, parts % 10_000).parse().unwrap();
            prop_assert_eq!(share.to_string().parse(), Ok(share));
        }
    }
}

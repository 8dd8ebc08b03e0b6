//! Rates as they are written: `"100/s"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::util::units::{ByteSize, UnitError};

/// So many per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    pub period: Duration,
}

/// For the JSON Schema.
pub const RATE_PATTERN: &str = "0*[1-9][0-9]*/(s|m|h|d)";

/// Above it a limit is none, and two requests would be under a nanosecond apart.
const MOST: u32 = 10_000_000;

const PERIODS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let Some((count, unit)) = text.split_once('/') else {
            let cause = "a rate is a number per time, like \"100/s\" or \"5/m\"";
            return Err(match digits(text) {
                true => UnitError::suggest("the unit is missing", format!("\"{text}/s\"")),
                false => UnitError::new(cause),
            });
        };
        if !digits(count) {
            return Err(UnitError::new("a rate begins with a whole number"));
        }
        let Some((_, seconds)) = PERIODS.iter().find(|(name, _)| *name == unit) else {
            let cause = format!("`{unit}` is not a unit of a rate; there are s, m, h and d");
            let guess = match unit.trim().to_ascii_lowercase().as_str() {
                "sec" | "second" | "1s" => Some("s"),
                "min" | "minute" | "1m" => Some("m"),
                "hour" | "1h" => Some("h"),
                "day" | "1d" => Some("d"),
                _ => None,
            };
            return Err(match guess {
                Some(guess) => UnitError::suggest(cause, format!("\"{count}/{guess}\"")),
                None => UnitError::new(cause),
            });
        };
        match count.parse() {
            Ok(0) => Err(UnitError::new("a rate of 0 lets nothing through")),
            Ok(count) if count <= MOST => Ok(Rate {
                count,
                period: Duration::from_secs(*seconds),
            }),
            _ => Err(UnitError::new("more than 10000000")),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.period.as_secs();
        let unit = PERIODS.iter().find(|(_, period)| *period == seconds);
        write!(f, "{}/{}", self.count, unit.map_or("s", |(name, _)| name))
    }
}

/// So many bytes per second: `"240B/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate {
    /// At least 1.
    pub bytes_per_second: u64,
}

impl FromStr for ByteRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let Some((size, unit)) = text.split_once('/') else {
            let cause = "a rate is a size per second, like \"240B/s\"";
            return Err(match text.parse::<ByteSize>() {
                Ok(_) => UnitError::suggest("the time is missing", format!("\"{text}/s\"")),
                Err(_) => UnitError::new(cause),
            });
        };
        let size: ByteSize = size.parse().map_err(|error: UnitError| {
            let suggestion = error
                .suggestion
                .as_deref()
                .map(|size| size.trim_matches('"'));
            match suggestion {
                Some(size) => UnitError::suggest(error.to_string(), format!("\"{size}/s\"")),
                None => error,
            }
        })?;
        match (size.0, unit) {
            (0, _) => Err(UnitError::new("a rate of 0 is \"off\"")),
            (bytes_per_second, "s") => Ok(ByteRate { bytes_per_second }),
            _ => {
                let cause = format!("`{unit}` is not a time here: bytes are counted per second");
                Err(UnitError::suggest(cause, format!("\"{size}/s\"")))
            }
        }
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", ByteSize(self.bytes_per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_as_written() {
        for text in ["1/s", "100/s", "5/m", "1000/h", "7/d", "10000000/s"] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(rate.to_string(), text);
        }
        assert_eq!(
            "5/m".parse::<Rate>().unwrap().period,
            Duration::from_secs(60)
        );
    }

    #[test]
    fn what_is_no_rate_is_told() {
        let suggestion = |text: &str| text.parse::<Rate>().unwrap_err().suggestion;
        assert_eq!(suggestion("100").as_deref(), Some("\"100/s\""));
        assert_eq!(suggestion("5/min").as_deref(), Some("\"5/m\""));
        for text in [
            "",
            "/s",
            "-1/s",
            "1.5/s",
            "1/",
            "1/ms",
            "0/s",
            "10000001/s",
            "1/s/s",
            "a",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}

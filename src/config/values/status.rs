//! Statuses, and what is worth a retry.

use crate::config::model::StatusRange;
use crate::config::suggest::closest;
use crate::config::tree::quote;
use crate::config::values::Complaint;

const GRPC: [&str; 4] = [
    "grpc-unavailable",
    "grpc-resource-exhausted",
    "grpc-deadline-exceeded",
    "grpc-internal",
];

/// `"200"` or `"200-399"`.
pub(in crate::config) fn range(text: &str) -> Result<StatusRange, Complaint> {
    if let Some(class) = text
        .strip_suffix("xx")
        .filter(|class| class.len() == 1 && *class <= "5")
    {
        return Err(Complaint::new("not a status").suggest(&format!("{class}00-{class}99")));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (one(first)?, one(last)?);
    if first > last {
        return Err(
            Complaint::new("the range ends before it begins").suggest(&format!("{last}-{first}"))
        );
    }
    Ok(StatusRange { first, last })
}

fn one(text: &str) -> Result<u16, Complaint> {
    let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(status @ 100..=999) if digits => Ok(status),
        _ => Err(Complaint::new("a status has three digits, from 100 on")),
    }
}

/// Of `breaker.failure-status`.
pub(in crate::config) fn failure(text: &str) -> Result<StatusRange, Complaint> {
    if GRPC.contains(&text) {
        return Err(Complaint::later(&quote(text)));
    }
    range(text)
}

/// One entry of `retry.on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum RetryCause {
    Connect,
    Reset,
    Timeout,
    BadResponse,
    Status(StatusRange),
}

pub(in crate::config) fn retry_cause(text: &str) -> Result<RetryCause, Complaint> {
    match text {
        "connect" => Ok(RetryCause::Connect),
        "reset" => Ok(RetryCause::Reset),
        "timeout" => Ok(RetryCause::Timeout),
        "bad-response" => Ok(RetryCause::BadResponse),
        text if GRPC.contains(&text) => Err(Complaint::later(&quote(text))),
        text if text.starts_with(|c: char| c.is_ascii_digit()) => {
            range(text).map(RetryCause::Status)
        }
        text => {
            let words = ["connect", "reset", "timeout", "bad-response"];
            let complaint = Complaint::new("neither a cause nor a status");
            Err(match closest(text, words.into_iter()) {
                Some(word) => complaint.help(format!("did you mean \"{word}\"?")),
                None => complaint.help("there are connect, reset, timeout, bad-response and statuses like \"502\" or \"500-599\""),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_ranges() {
        assert_eq!(
            range("200-399"),
            Ok(StatusRange {
                first: 200,
                last: 399
            })
        );
        assert_eq!(
            range("204"),
            Ok(StatusRange {
                first: 204,
                last: 204
            })
        );
        for text in [
            "",
            "20",
            "099",
            "2000",
            "399-200",
            "200-",
            "+20",
            "2xx",
            "200-300-400",
            "é",
        ] {
            assert!(range(text).is_err(), "{text}");
        }
        assert_eq!(
            retry_cause("grpc-unavailable").unwrap_err().code,
            "not-supported-yet"
        );
        assert_eq!(retry_cause("reset"), Ok(RetryCause::Reset));
        assert!(
            retry_cause("conect")
                .unwrap_err()
                .help
                .unwrap()
                .contains("\"connect\"")
        );
    }
}

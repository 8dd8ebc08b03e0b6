//! Statuses, and what is worth a retry.

use crate::config::model::{GrpcStatuses, StatusRange};
use crate::config::suggest::closest;
use crate::config::values::Complaint;

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

/// One entry of `breaker.failure-status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Failure {
    Status(StatusRange),
    /// A code of gRPC.
    Grpc(u8),
}

pub(in crate::config) fn failure(text: &str) -> Result<Failure, Complaint> {
    if !text.starts_with("grpc") {
        return range(text).map(Failure::Status);
    }
    grpc(text).map(Failure::Grpc).ok_or_else(|| {
        let complaint = Complaint::new("not a status of gRPC that can be named here");
        let names = GrpcStatuses::NAMED.map(|(name, _)| name);
        match closest(text, names.into_iter()) {
            Some(name) => complaint.suggest(name),
            None => complaint.help(format!("there are {}", names.join(", "))),
        }
    })
}

fn grpc(text: &str) -> Option<u8> {
    let mut named = GrpcStatuses::NAMED.into_iter();
    named.find_map(|(name, code)| (name == text).then_some(code))
}

/// One entry of `retry.on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum RetryCause {
    Connect,
    Reset,
    Timeout,
    BadResponse,
    Status(StatusRange),
    /// A code of gRPC.
    Grpc(u8),
}

pub(in crate::config) fn retry_cause(text: &str) -> Result<RetryCause, Complaint> {
    match text {
        "connect" => Ok(RetryCause::Connect),
        "reset" => Ok(RetryCause::Reset),
        "timeout" => Ok(RetryCause::Timeout),
        "bad-response" => Ok(RetryCause::BadResponse),
        text if text.starts_with(|c: char| c.is_ascii_digit()) => {
            range(text).map(RetryCause::Status)
        }
        text => {
            if let Some(code) = grpc(text) {
                return Ok(RetryCause::Grpc(code));
            }
            let words = [
                "connect",
                "reset",
                "timeout",
                "bad-response",
                "grpc-unavailable",
            ];
            let complaint = Complaint::new("neither a cause nor a status");
            Err(match closest(text, words.into_iter()) {
                Some(word) => complaint.help(format!("did you mean \"{word}\"?")),
                None => complaint.help("there are connect, reset, timeout, bad-response, grpc-unavailable and statuses like \"502\" or \"500-599\""),
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
        assert_eq!(retry_cause("grpc-unavailable"), Ok(RetryCause::Grpc(14)));
        assert!(retry_cause("grpc-internet").is_err());
        assert_eq!(failure("grpc-internal"), Ok(Failure::Grpc(13)));
        let complaint = failure("grpc-interna").unwrap_err();
        assert!(complaint.help.unwrap().contains("\"grpc-internal\""));
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

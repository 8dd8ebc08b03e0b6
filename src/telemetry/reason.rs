//! The reason table: why an answer is ours and not a server's.

use std::fmt;

macro_rules! reasons {
    ($($variant:ident $name:literal $status:literal,)+) => {
        /// Why a request was answered by us, or ended without an answer.
        ///
        /// A closed set: its text is the `x-evenkeel-reason` header, the log field and the value of
        /// the `reason` label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($variant,)+
        }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$variant,)+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$variant => $name,)+
                }
            }

            /// Status of our answer; 499 for [`Reason::ClientClosed`] is for the log only.
            pub fn status(self) -> u16 {
                match self {
                    $(Reason::$variant => $status,)+
                }
            }
        }
    };
}

reasons! {
    NoRoute "no_route" 404,
    BadRequest "bad_request" 400,
    UriTooLong "uri_too_long" 414,
    HeaderTooLarge "header_too_large" 431,
    BodyTooLarge "body_too_large" 413,
    RequestTimeout "request_timeout" 408,
    MethodNotAllowed "method_not_allowed" 405,
    Misdirected "misdirected" 421,
    ExpectationFailed "expectation_failed" 417,
    NotImplemented "not_implemented" 501,
    VersionNotSupported "version_not_supported" 505,
    Denied "denied" 403,
    RateLimited "rate_limited" 429,
    NoServer "no_server" 503,
    CircuitOpen "circuit_open" 503,
    Overloaded "overloaded" 503,
    QueueTimeout "queue_timeout" 503,
    ConnectRefused "connect_refused" 502,
    ConnectTimeout "connect_timeout" 504,
    TlsFailed "tls_failed" 502,
    UpstreamReset "upstream_reset" 502,
    BadResponse "bad_response" 502,
    ResponseTimeout "response_timeout" 504,
    TotalTimeout "total_timeout" 504,
    Internal "internal" 500,
    ClientClosed "client_closed" 499,
}

impl Reason {
    /// Position in [`Reason::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_position_in_all() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(
                reason.index(),
                position,
                "{reason} must be at its own index"
            );
        }
    }

    #[test]
    fn names_are_distinct_and_statuses_are_errors() {
        let names: std::collections::BTreeSet<_> =
            Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(
            Reason::ALL
                .iter()
                .all(|reason| (400..=599).contains(&reason.status()))
        );
    }
}

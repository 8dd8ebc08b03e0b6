//! Field names that somebody inside looks at: an id each, found once by the parser.
//!
//! Looking a field up by id is a bit test and a walk over 12-byte records; no name is compared
//! again after parsing.

macro_rules! known {
    ($($variant:ident = $wire:literal, $lower:literal;)*) => {
        /// A field name that the proxy looks at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known {
            $(#[doc = $wire] $variant,)*
        }

        const ALL: &[Known] = &[$(Known::$variant,)*];
        const WIRE: &[&str] = &[$($wire,)*];
        const LOWER: &[&str] = &[$($lower,)*];
    };
}

known! {
    Host = "Host", "host";
    Connection = "Connection", "connection";
    ContentLength = "Content-Length", "content-length";
    TransferEncoding = "Transfer-Encoding", "transfer-encoding";
    Te = "TE", "te";
    Trailer = "Trailer", "trailer";
    Upgrade = "Upgrade", "upgrade";
    KeepAlive = "Keep-Alive", "keep-alive";
    ProxyConnection = "Proxy-Connection", "proxy-connection";
    ProxyAuthenticate = "Proxy-Authenticate", "proxy-authenticate";
    ProxyAuthorization = "Proxy-Authorization", "proxy-authorization";
    ProxyAuthenticationInfo = "Proxy-Authentication-Info", "proxy-authentication-info";
    Expect = "Expect", "expect";
    MaxForwards = "Max-Forwards", "max-forwards";
    Date = "Date", "date";
    Via = "Via", "via";
    Forwarded = "Forwarded", "forwarded";
    XForwardedFor = "X-Forwarded-For", "x-forwarded-for";
    XForwardedProto = "X-Forwarded-Proto", "x-forwarded-proto";
    XForwardedHost = "X-Forwarded-Host", "x-forwarded-host";
    XForwardedPort = "X-Forwarded-Port", "x-forwarded-port";
    XForwardedPrefix = "X-Forwarded-Prefix", "x-forwarded-prefix";
    XRealIp = "X-Real-IP", "x-real-ip";
    XRequestId = "X-Request-Id", "x-request-id";
    ClientCert = "Client-Cert", "client-cert";
    ClientCertChain = "Client-Cert-Chain", "client-cert-chain";
    Cookie = "Cookie", "cookie";
    SetCookie = "Set-Cookie", "set-cookie";
    Accept = "Accept", "accept";
    AcceptEncoding = "Accept-Encoding", "accept-encoding";
    AcceptLanguage = "Accept-Language", "accept-language";
    UserAgent = "User-Agent", "user-agent";
    Referer = "Referer", "referer";
    Origin = "Origin", "origin";
    Authorization = "Authorization", "authorization";
    AuthenticationInfo = "Authentication-Info", "authentication-info";
    WwwAuthenticate = "WWW-Authenticate", "www-authenticate";
    ContentType = "Content-Type", "content-type";
    ContentEncoding = "Content-Encoding", "content-encoding";
    ContentRange = "Content-Range", "content-range";
    CacheControl = "Cache-Control", "cache-control";
    Pragma = "Pragma", "pragma";
    Vary = "Vary", "vary";
    Age = "Age", "age";
    Expires = "Expires", "expires";
    Etag = "ETag", "etag";
    LastModified = "Last-Modified", "last-modified";
    IfMatch = "If-Match", "if-match";
    IfNoneMatch = "If-None-Match", "if-none-match";
    IfModifiedSince = "If-Modified-Since", "if-modified-since";
    IfUnmodifiedSince = "If-Unmodified-Since", "if-unmodified-since";
    IfRange = "If-Range", "if-range";
    RetryAfter = "Retry-After", "retry-after";
    Http2Settings = "HTTP2-Settings", "http2-settings";
    Traceparent = "traceparent", "traceparent";
    Tracestate = "tracestate", "tracestate";
    Server = "Server", "server";
    Location = "Location", "location";
    Range = "Range", "range";
    Allow = "Allow", "allow";
    GrpcStatus = "grpc-status", "grpc-status";
    GrpcMessage = "grpc-message", "grpc-message";
    XEvenkeelReason = "x-evenkeel-reason", "x-evenkeel-reason";
    StrictTransportSecurity = "Strict-Transport-Security", "strict-transport-security";
    SecWebsocketKey = "Sec-WebSocket-Key", "sec-websocket-key";
    SecWebsocketAccept = "Sec-WebSocket-Accept", "sec-websocket-accept";
}

/// Slots of the table that finds an id by name; a power of two, about a quarter full.
const SLOTS: usize = 256;
const EMPTY: u8 = u8::MAX;
static TABLE: [u8; SLOTS] = build_table();
const _: () = assert!(ALL.len() < 128, "`KnownSet` has 128 bits");

const fn build_table() -> [u8; SLOTS] {
    let mut table = [EMPTY; SLOTS];
    let mut i = 0;
    while i < WIRE.len() {
        let mut slot = slot_of(WIRE[i].as_bytes());
        while table[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = i as u8;
        i += 1;
    }
    table
}

/// Mixes length, first, middle and last letter; `| 0x20` makes letters lower case and harms
/// nothing else.
const fn slot_of(name: &[u8]) -> usize {
    let length = name.len();
    if length == 0 {
        return 0;
    }
    let first = (name[0] | 0x20) as usize;
    let middle = (name[length / 2] | 0x20) as usize;
    let last = (name[length - 1] | 0x20) as usize;
    (length * 7 + first * 31 + middle * 61 + last * 149) % SLOTS
}

impl Known {
    /// The id of a name in any case.
    pub fn find(name: &[u8]) -> Option<Known> {
        let mut slot = slot_of(name);
        loop {
            let index = TABLE[slot];
            if index == EMPTY {
                return None;
            }
            let known = WIRE[index as usize].as_bytes();
            // Nearly always the usual spelling: that comparison goes by words.
            if known == name || known.eq_ignore_ascii_case(name) {
                return Some(ALL[index as usize]);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// The spelling on an HTTP/1 wire when we write the field ourselves: "Content-Length".
    pub const fn wire(self) -> &'static str {
        WIRE[self as usize]
    }

    /// In lower case: "content-length".
    pub const fn as_str(self) -> &'static str {
        LOWER[self as usize]
    }

    pub(super) const fn from_index(index: u8) -> Known {
        ALL[index as usize]
    }

    const fn bit(self) -> u128 {
        1 << (self as u8)
    }
}

/// A set of known names: what a head has, or what a writer leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KnownSet(u128);

impl KnownSet {
    pub const EMPTY: KnownSet = KnownSet(0);

    pub const fn of(names: &[Known]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < names.len() {
            bits |= names[i].bit();
            i += 1;
        }
        KnownSet(bits)
    }

    #[must_use]
    pub const fn with(self, name: Known) -> Self {
        KnownSet(self.0 | name.bit())
    }

    #[must_use]
    pub const fn without(self, name: Known) -> Self {
        KnownSet(self.0 & !name.bit())
    }

    #[must_use]
    pub const fn minus(self, other: KnownSet) -> Self {
        KnownSet(self.0 & !other.0)
    }

    #[must_use]
    pub const fn union(self, other: KnownSet) -> Self {
        KnownSet(self.0 | other.0)
    }

    pub const fn contains(self, name: Known) -> bool {
        self.0 & name.bit() != 0
    }

    pub const fn intersects(self, other: KnownSet) -> bool {
        self.0 & other.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for &name in ALL {
            assert_eq!(Known::find(name.wire().as_bytes()), Some(name));
            assert_eq!(
                Known::find(name.wire().to_ascii_uppercase().as_bytes()),
                Some(name)
            );
            assert_eq!(name.wire().to_ascii_lowercase(), name.as_str());
            assert_eq!(Known::find(name.as_str().as_bytes()), Some(name));
        }
    }

    #[test]
    fn other_names_are_not_found() {
        for name in [
            "",
            "x",
            "hosts",
            "hos",
            "content_length",
            "x-something-else",
        ] {
            assert_eq!(Known::find(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let set = KnownSet::of(&[Known::Host, Known::Via])
            .with(Known::Te)
            .without(Known::Via);
        assert!(set.contains(Known::Host) && set.contains(Known::Te));
        assert!(!set.contains(Known::Via));
        assert!(set.intersects(KnownSet::of(&[Known::Te])));
        assert!(!set.intersects(KnownSet::of(&[Known::Via])));
    }
}

//! Field names that somebody inside looks at: an id each, found once by the parser.
//!
//! Looking a field up by id is a bit test and a walk over 12-byte records; no name is compared
//! again after parsing.

use std::num::NonZero;

use crate::util::scan::Lanes;

macro_rules! known {
    ($($variant:ident = $wire:literal, $lower:literal;)*) => {
        /// A field name that the proxy looks at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known {
            $(#[doc = $wire] $variant,)*
        }

        const ALL: &[Known] = &[$(Known::$variant,)*];
        const WIRE: [&str; ALL.len()] = [$(concat!($wire, ": "),)*];
        const LOWER: [&str; ALL.len()] = [$($lower,)*];
        const LOWER_WITH_COLON: [&str; ALL.len()] = [$(concat!($lower, ":"),)*];
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

/// One past the last id: a name without one.
pub(super) const OTHER: u8 = ALL.len() as u8;
/// Another that is no id: a line that was removed.
pub(super) const REMOVED: u8 = OTHER + 1;
const _: () = assert!(REMOVED < 128, "`KnownSet` has 128 bits");

/// A name and the colon behind it fit in this.
pub(crate) const WINDOW: usize = 32;

/// Every name in lower case with its colon, which makes a comparison include the length.
static NAMES: [[u8; WINDOW]; ALL.len()] = windows(LOWER_WITH_COLON);

const fn windows(texts: [&str; ALL.len()]) -> [[u8; WINDOW]; ALL.len()] {
    let mut windows = [[0; WINDOW]; ALL.len()];
    let mut i = 0;
    while i < ALL.len() {
        let (window, _) = windows[i].split_at_mut(texts[i].len());
        window.copy_from_slice(texts[i].as_bytes());
        i += 1;
    }
    windows
}

/// Slots of the table that finds an id by name; so many that a factor without collisions is
/// found soon.
const SLOTS: usize = 512;
const FACTOR: u32 = {
    let mut factor = 0x9e37_79b1;
    while table(factor).is_none() {
        factor += 2;
    }
    factor
};
/// An empty slot has the first name: the comparison decides.
static TABLE: [Known; SLOTS] = match table(FACTOR) {
    Some(table) => table,
    None => [ALL[0]; SLOTS],
};

/// The table, if no two names share a slot.
const fn table(factor: u32) -> Option<[Known; SLOTS]> {
    let mut table = [ALL[0]; SLOTS];
    let mut taken = [false; SLOTS];
    let mut i = 0;
    while i < ALL.len() {
        let slot = slot_of(&NAMES[i], LOWER[i].len(), factor);
        if taken[slot] {
            return None;
        }
        taken[slot] = true;
        table[slot] = ALL[i];
        i += 1;
    }
    Some(table)
}

/// Mixes the length, the first two letters and two near the end; the bit 0x20 makes letters lower
/// case, and what else it does the comparison sees.
const fn slot_of(window: &[u8; WINDOW], length: usize, factor: u32) -> usize {
    // An even place, so that both are always inside of the window.
    let place = (length.wrapping_sub(2) % WINDOW) & !1;
    let letters = [window[0], window[1], window[place], window[place + 1]];
    let mixed = (u32::from_le_bytes(letters) | 0x2020_2020).wrapping_add(8 * length as u32);
    (mixed.wrapping_mul(factor) >> (u32::BITS - SLOTS.trailing_zeros())) as usize
}

impl Known {
    /// The id of a name in any case.
    pub fn find(name: &[u8]) -> Option<Known> {
        let mut window = [0; WINDOW];
        window.get_mut(..name.len())?.copy_from_slice(name);
        *window.get_mut(name.len())? = b':';
        Known::find_before_colon(&window, NonZero::new(1 << name.len())?)
    }

    /// The id of the name, in any case, that `window` has before its first colon; `colons` says
    /// where it has some.
    #[inline]
    pub(crate) fn find_before_colon(window: &[u8; WINDOW], colons: NonZero<u32>) -> Option<Known> {
        let length = colons.trailing_zeros() as usize;
        let known = TABLE[slot_of(window, length, FACTOR)];
        let (lower, window) = (&NAMES[known as usize], halves(window));
        let mut same = Lanes::new(window.0).same_in_any_case(halves(lower).0);
        if length >= 16 {
            same |= Lanes::new(window.1).same_in_any_case(halves(lower).1) << 16;
        }
        // The colon counts as well: a longer or shorter name has none at this place.
        let with_colon = colons.get() ^ (colons.get() - 1);
        (!same & with_colon == 0).then_some(known)
    }

    /// The spelling on an HTTP/1 wire when we write the field ourselves: "Content-Length".
    pub const fn wire(self) -> &'static str {
        let line = WIRE[self as usize];
        line.split_at(line.len() - 2).0
    }

    /// The same as a line begins, "Content-Length: ", and its length. Copying the whole window is
    /// a few instructions, copying a length that is not known before is a call.
    pub(super) fn line_start(self) -> (&'static [u8; WINDOW], usize) {
        static STARTS: [[u8; WINDOW]; ALL.len()] = windows(WIRE);
        (&STARTS[self as usize], WIRE[self as usize].len())
    }

    /// In lower case: "content-length".
    pub const fn as_str(self) -> &'static str {
        LOWER[self as usize]
    }

    /// `None` for [`OTHER`].
    pub(super) const fn from_index(index: u8) -> Option<Known> {
        if index < OTHER {
            Some(ALL[index as usize])
        } else {
            None
        }
    }
}

/// Both halves of a window.
#[inline(always)]
pub(crate) fn halves(window: &[u8; WINDOW]) -> (&[u8; 16], &[u8; 16]) {
    let (halves, _) = window.as_chunks();
    (&halves[0], &halves[1])
}

/// A set of known names: what a head has, or what a writer leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KnownSet([u64; 2]);

impl KnownSet {
    pub const EMPTY: KnownSet = KnownSet([0; 2]);

    /// What says who the client is and how it came: a proxy vouches for it, a stranger may not say
    /// it. `Via` is not among them: it is only added to.
    pub const IDENTITY: KnownSet = KnownSet::of(&[
        Known::ClientCert,
        Known::ClientCertChain,
        Known::Forwarded,
        Known::XForwardedFor,
        Known::XForwardedProto,
        Known::XForwardedPort,
        Known::XForwardedHost,
        Known::XForwardedPrefix,
        Known::XRealIp,
        Known::XRequestId,
    ]);

    pub const fn of(names: &[Known]) -> Self {
        let mut set = KnownSet::EMPTY;
        let mut i = 0;
        while i < names.len() {
            set = set.with(names[i]);
            i += 1;
        }
        set
    }

    #[must_use]
    pub const fn with(self, name: Known) -> Self {
        self.with_index(name as u8)
    }

    #[must_use]
    pub const fn without(self, name: Known) -> Self {
        self.minus(KnownSet::EMPTY.with(name))
    }

    #[must_use]
    pub const fn union(self, other: KnownSet) -> Self {
        KnownSet([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    #[must_use]
    pub const fn minus(self, other: KnownSet) -> Self {
        KnownSet([self.0[0] & !other.0[0], self.0[1] & !other.0[1]])
    }

    pub const fn contains(self, name: Known) -> bool {
        self.contains_index(name as u8)
    }

    pub const fn intersects(self, other: KnownSet) -> bool {
        (self.0[0] & other.0[0]) | (self.0[1] & other.0[1]) != 0
    }

    /// Of an id, or of what is none.
    #[must_use]
    pub(super) const fn with_index(mut self, index: u8) -> Self {
        self.0[index as usize / 64 % 2] |= 1 << (index % 64);
        self
    }

    /// Of one id, empty for [`OTHER`]: a table costs less than two shifts and a question.
    pub(super) fn of_index(index: u8) -> Self {
        static SETS: [KnownSet; OTHER as usize + 1] = {
            let mut sets = [KnownSet::EMPTY; OTHER as usize + 1];
            let mut index = 0;
            while index < OTHER {
                sets[index as usize] = KnownSet::EMPTY.with_index(index);
                index += 1;
            }
            sets
        };
        SETS[index as usize]
    }

    pub(super) const fn contains_index(self, index: u8) -> bool {
        self.0[index as usize / 64 % 2] >> (index % 64) & 1 != 0
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

    fn compared_one_by_one(name: &[u8]) -> Option<Known> {
        let same = |known: &&Known| known.wire().as_bytes().eq_ignore_ascii_case(name);
        ALL.iter().find(same).copied()
    }

    #[test]
    fn a_name_with_one_other_byte_is_not_found() {
        for &name in ALL {
            let wire = name.wire().as_bytes();
            for byte in 0..=255 {
                for place in 0..wire.len() {
                    let mut text = wire.to_vec();
                    text[place] = byte;
                    assert_eq!(Known::find(&text), compared_one_by_one(&text), "{text:?}");
                }
                let longer = [wire, &[byte]].concat();
                assert_eq!(Known::find(&longer), None, "{longer:?}");
            }
            for length in 0..wire.len() {
                let text = &wire[..length];
                assert_eq!(Known::find(text), compared_one_by_one(text), "{text:?}");
            }
        }
    }

    #[test]
    fn other_names_are_not_found() {
        for name in [
            "",
            "x",
            "hosts",
            "hos",
            "host:",
            "a-name-of-exactly-31-characters",
            "a-name-of-exactly-32-characters-",
            "a-name-that-is-longer-than-any-of-ours-is",
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

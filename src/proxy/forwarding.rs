//! What the server is told about the client and the way here.
//!
//! A server believes these fields, so from anybody but a trusted proxy they are replaced by what
//! we saw ourselves, or removed where we have nothing to say. A trusted proxy's lists are
//! continued and its single values kept. `Client-Cert` (RFC 9440) is never taken from outside.
//! Set after the hop-by-hop fields are gone: `Connection` cannot take away what is set here.
//!
//! Most of it is the same for all requests of a client: [`Introductions`] keeps those lines.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::LazyLock;

use smallvec::SmallVec;

use crate::message::{Block, Fields, Known, KnownSet, Version};
use crate::util::random::Random;

/// Text of a request id.
pub type RequestId = SmallVec<[u8; 32]>;

/// Longer ids of trusted proxies are replaced: they go into every log line.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Our name in `Via`.
const PSEUDONYM: &[u8] = b" evenkeel";

/// Never taken from outside.
const OURS_ALONE: KnownSet = KnownSet::of(&[Known::ClientCert, Known::ClientCertChain]);

/// How a request came in.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The TCP peer.
    pub source: IpAddr,
    /// `source` is in the listener's `trusted-proxies`.
    pub trusted: bool,
    /// The client's address as [`super::client_address`] found it.
    pub client: IpAddr,
    /// "http" or "https".
    pub scheme: &'static str,
    /// The port that the client connected to.
    pub port: u16,
    pub version: Version,
    /// The listener's `via`.
    pub via: bool,
}

/// Sets the forwarding fields of a request that was cleaned of its hop-by-hop fields and has its
/// final `Host`; returns the request's id.
pub fn set_forwarding(
    fields: &mut Fields,
    arrival: &Arrival,
    introductions: &mut Introductions,
    random: &mut Random,
) -> RequestId {
    if arrival.trusted {
        fields.remove_any(OURS_ALONE);
        continue_lists(fields, arrival);
        fill_in(fields, arrival);
        if arrival.via {
            append_via(fields, arrival.version);
        }
        return keep_request_id(fields, random);
    }
    fields.remove_any(KnownSet::IDENTITY);
    let id = fresh_id(random);
    fields.append_block_ending(introductions.of(arrival), &id);
    fields.append_copy(Known::XForwardedHost, Known::Host);
    id
}

/// Adds ourselves to `Via` of a request or response that came in this version
/// (RFC 9110 section 7.6.3).
pub fn append_via(fields: &mut Fields, version: Version) {
    static VIA: LazyLock<[Block; 3]> = LazyLock::new(|| {
        [Version::Http10, Version::Http11, Version::H2].map(|version| {
            let mut via = Fields::new();
            via.append_pieces(Known::Via, &[version.number().as_bytes(), PSEUDONYM]);
            Block::from_fields(&via)
        })
    });
    fields.append_block(&VIA[version as usize]);
}

/// The lines about a client that is not trusted, but for the host: formatted once and kept while it
/// keeps coming. They end with the request's id, which is filled in.
///
/// One per worker and not one per connection: those of a client share it, and an idle connection
/// holds none. A place may be taken by another client at any time, so their number is bounded.
#[derive(Debug, Default)]
pub struct Introductions(Vec<Option<(Client, Block)>>);

/// What the lines depend on: the address, then port, version, scheme and `via`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Client(u128, u32);

impl Introductions {
    /// A power of two.
    const PLACES: usize = 256;

    fn of(&mut self, arrival: &Arrival) -> &Block {
        let client = Client::of(arrival);
        if self.0.is_empty() {
            self.0.resize(Self::PLACES, None);
        }
        let place = &mut self.0[client.place() % Self::PLACES];
        if !matches!(place, Some((known, _)) if *known == client) {
            *place = None;
        }
        let (_, block) = place.get_or_insert_with(|| (client, introduce(arrival)));
        block
    }
}

impl Client {
    fn of(arrival: &Arrival) -> Client {
        let address = match arrival.source {
            // As IPv6 has it.
            IpAddr::V4(address) => 0xffff_0000_0000 | u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let rest = u32::from(arrival.port) << 16
            | (arrival.version as u32) << 8
            | u32::from(arrival.scheme == "https") << 1
            | u32::from(arrival.via);
        Client(address, rest)
    }

    fn place(self) -> usize {
        // The bits that differ between clients are at the end of an address, in IPv6 in the middle.
        let folded = (self.0 >> 64) as u64 ^ self.0 as u64 ^ u64::from(self.1);
        (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize
    }
}

fn introduce(arrival: &Arrival) -> Block {
    let mut lines = Fields::new();
    let source = Text::of_address(arrival.source.to_canonical());
    lines.append(Known::XForwardedFor, source.bytes());
    lines.append(Known::XForwardedProto, arrival.scheme.as_bytes());
    let port = itoa::Buffer::new().format(arrival.port).to_owned();
    lines.append(Known::XForwardedPort, port.as_bytes());
    if arrival.via {
        append_via(&mut lines, arrival.version);
    }
    lines.append(Known::XRequestId, &hexadecimal(0));
    Block::from_fields(&lines)
}

/// `X-Forwarded-For` always goes on; `Forwarded` only where the trusted proxy uses it.
fn continue_lists(fields: &mut Fields, arrival: &Arrival) {
    let source = arrival.source.to_canonical();
    if fields.contains(Known::XForwardedFor) {
        append_member(
            fields,
            Known::XForwardedFor,
            Text::of_address(source).bytes(),
        );
    } else if arrival.client.to_canonical() == source {
        fields.set(Known::XForwardedFor, Text::of_address(source).bytes());
    } else {
        // The client is known from `Forwarded` alone: a list of ours without it would hide it
        // from the servers that prefer this list.
        let list = Text::of(format_args!("{}, {source}", arrival.client.to_canonical()));
        fields.set(Known::XForwardedFor, list.bytes());
    }
    if fields.contains(Known::Forwarded) {
        let element = forwarded_element(source, fields.get(Known::Host), arrival.scheme);
        append_member(fields, Known::Forwarded, element.bytes());
    }
}

/// One element of RFC 7239 section 4.
fn forwarded_element(source: IpAddr, host: Option<&[u8]>, scheme: &str) -> Text {
    let mut element = match source {
        IpAddr::V4(address) => Text::of(format_args!("for={address}")),
        IpAddr::V6(address) => Text::of(format_args!("for=\"[{address}]\"")),
    };
    if let Some(host) = host {
        // A valid Host has neither quotes nor backslashes.
        element.0.extend_from_slice(b";host=\"");
        element.0.extend_from_slice(host);
        element.0.push(b'"');
    }
    element.0.extend_from_slice(b";proto=");
    element.0.extend_from_slice(scheme.as_bytes());
    element
}

/// Joins all lines of a list into one, and adds a member.
fn append_member(fields: &mut Fields, name: Known, member: &[u8]) {
    let mut list: SmallVec<[u8; 128]> = SmallVec::new();
    for value in fields.values(name).filter(|value| !value.is_empty()) {
        list.extend_from_slice(value);
        list.extend_from_slice(b", ");
    }
    fields.set_pieces(name, &[&list, member]);
}

/// Says what a trusted proxy left out. Our port belongs to our host and scheme, not to its.
fn fill_in(fields: &mut Fields, arrival: &Arrival) {
    let silent = !fields.contains(Known::XForwardedProto)
        && !fields.contains(Known::XForwardedHost)
        && !fields.contains(Known::XForwardedPort);
    if silent {
        let port = itoa::Buffer::new().format(arrival.port).to_owned();
        fields.set(Known::XForwardedPort, port.as_bytes());
    }
    if !fields.contains(Known::XForwardedProto) {
        fields.set(Known::XForwardedProto, arrival.scheme.as_bytes());
    }
    if !fields.contains(Known::XForwardedHost) {
        fields.append_copy(Known::XForwardedHost, Known::Host);
    }
}

/// Keeps a trusted proxy's id, else makes one.
fn keep_request_id(fields: &mut Fields, random: &mut Random) -> RequestId {
    if fields.count(Known::XRequestId) == 1 {
        let received = fields.get(Known::XRequestId).unwrap_or_default();
        if is_request_id(received) {
            return received.into();
        }
    }
    let id = fresh_id(random);
    fields.set(Known::XRequestId, &id);
    id
}

/// An id of 128 random bits, for a request that came without one, or that goes nowhere.
pub fn fresh_id(random: &mut Random) -> RequestId {
    RequestId::from_buf(hexadecimal(random.long_number()))
}

fn is_request_id(text: &[u8]) -> bool {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~:+/=@".contains(byte);
    (1..=MAX_REQUEST_ID_BYTES).contains(&text.len()) && text.iter().all(good)
}

/// Each eight digits as one word: a nibble to a byte, then all bytes to digits at once.
fn hexadecimal(number: u128) -> [u8; 32] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let eights = [96, 64, 32, 0].map(|shift| (number >> shift) as u32);
    let mut text = [0; 32];
    for (digits, eight) in text.as_chunks_mut::<8>().0.iter_mut().zip(eights) {
        let mut word = u64::from(eight);
        word = (word << 16 | word) & 0x0000_ffff_0000_ffff;
        word = (word << 8 | word) & 0x00ff_00ff_00ff_00ff;
        word = (word << 4 | word) & 0x0f0f_0f0f_0f0f_0f0f;
        // 6 more make a letter's nibble carry; letters are 0x27 further on than digits.
        let letters = (word + ONES * 6) >> 4 & ONES;
        *digits = (word + ONES * u64::from(b'0') + letters * 0x27).to_be_bytes();
    }
    text
}

/// Short text on the stack.
struct Text(SmallVec<[u8; 96]>);

impl Text {
    fn of(value: impl std::fmt::Display) -> Text {
        let mut text = Text(SmallVec::new());
        // Writing to memory cannot fail.
        let _ = write!(text, "{value}");
        text
    }

    /// Each request has one, and nearly all are of IPv4: without the formatter.
    fn of_address(address: IpAddr) -> Text {
        let IpAddr::V4(address) = address else {
            return Text::of(address);
        };
        let mut text = Text(SmallVec::new());
        for (place, octet) in address.octets().into_iter().enumerate() {
            if place > 0 {
                text.0.push(b'.');
            }
            text.0
                .extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
        }
        text
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPOOFED: &[(&str, &str)] = &[
        ("X-Forwarded-For", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Prefix", "/evil"),
        ("Forwarded", "for=6.6.6.6;proto=https"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Request-Id", "spoofed"),
        ("Client-Cert", ":evil:"),
        ("Client-Cert-Chain", ":evil:"),
    ];

    fn arrival() -> Arrival {
        Arrival {
            source: IpAddr::from([192, 0, 2, 1]),
            trusted: false,
            client: IpAddr::from([192, 0, 2, 1]),
            scheme: "http",
            port: 8080,
            version: Version::Http11,
            via: true,
        }
    }

    const HOST: &[u8] = b"api.example:8080";

    fn trusted() -> Arrival {
        Arrival {
            trusted: true,
            ..arrival()
        }
    }

    /// All fields afterwards, names in lower case, sorted, without host and id.
    fn after(lines: &[(&str, &str)], arrival: &Arrival) -> Vec<String> {
        after_with(lines, Some(HOST), arrival)
    }

    fn after_with(lines: &[(&str, &str)], host: Option<&[u8]>, arrival: &Arrival) -> Vec<String> {
        let mut fields = Fields::new();
        if let Some(host) = host {
            fields.append(Known::Host, host);
        }
        for (name, value) in lines {
            fields.append_text(name, value.as_bytes());
        }
        let mut random = Random::seeded(1);
        let id = set_forwarding(
            &mut fields,
            arrival,
            &mut Introductions::default(),
            &mut random,
        );
        assert_eq!(fields.get(Known::XRequestId), Some(&*id));
        assert_eq!(fields.count(Known::XRequestId), 1);
        fields.remove(Known::XRequestId);
        fields.remove(Known::Host);
        let text = String::from_utf8_lossy;
        let mut lines: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{}: {}", text(name).to_ascii_lowercase(), text(value)))
            .collect();
        lines.sort();
        lines
    }

    const OURS: [&str; 5] = [
        "via: 1.1 evenkeel",
        "x-forwarded-for: 192.0.2.1",
        "x-forwarded-host: api.example:8080",
        "x-forwarded-port: 8080",
        "x-forwarded-proto: http",
    ];

    #[test]
    fn nothing_of_a_stranger_is_left() {
        assert_eq!(after(SPOOFED, &arrival()), OURS);
        assert_eq!(after(&[], &arrival()), OURS);
    }

    #[test]
    fn spoofed_host_goes_where_there_is_none() {
        let old = Arrival {
            version: Version::Http10,
            ..arrival()
        };
        let lines = after_with(SPOOFED, None, &old);
        assert!(
            !lines
                .iter()
                .any(|line| line.starts_with("x-forwarded-host"))
        );
        assert!(lines.contains(&"via: 1.0 evenkeel".to_owned()));
    }

    #[test]
    fn trusted_proxy_is_continued_and_kept() {
        assert_eq!(
            after(SPOOFED, &trusted()),
            [
                "forwarded: for=6.6.6.6;proto=https, \
                 for=192.0.2.1;host=\"api.example:8080\";proto=http",
                "via: 1.1 evenkeel",
                "x-forwarded-for: 6.6.6.6, 7.7.7.7, 192.0.2.1",
                "x-forwarded-host: evil",
                "x-forwarded-port: 443",
                "x-forwarded-prefix: /evil",
                "x-forwarded-proto: https",
                "x-real-ip: 6.6.6.6",
            ],
            "but never its Client-Cert"
        );
    }

    #[test]
    fn silent_trusted_proxy_is_as_good_as_a_client() {
        assert_eq!(after(&[], &trusted()), OURS);
        let lines = after(&[("X-Forwarded-Proto", "https")], &trusted());
        assert!(lines.contains(&"x-forwarded-proto: https".to_owned()));
        assert!(
            !lines
                .iter()
                .any(|line| line.starts_with("x-forwarded-port")),
            "our port is not the port of its https"
        );
    }

    #[test]
    fn client_known_from_forwarded_alone_stays_known() {
        let from = Arrival {
            client: IpAddr::from([203, 0, 113, 7]),
            ..trusted()
        };
        let lines = after(&[("Forwarded", "for=203.0.113.7")], &from);
        assert!(lines.contains(&"x-forwarded-for: 203.0.113.7, 192.0.2.1".to_owned()));
    }

    #[test]
    fn ipv6_is_written_as_each_field_wants_it() {
        let source = "2001:db8::1".parse().expect("an address");
        let from = Arrival {
            source,
            client: source,
            ..trusted()
        };
        let lines = after_with(
            &[("Forwarded", "for=unknown"), ("X-Forwarded-For", "a")],
            None,
            &from,
        );
        assert_eq!(
            lines[0],
            "forwarded: for=unknown, for=\"[2001:db8::1]\";proto=http"
        );
        assert!(lines.contains(&"x-forwarded-for: a, 2001:db8::1".to_owned()));
        let mapped = "::ffff:192.0.2.1".parse().expect("an address");
        let from = Arrival {
            source: mapped,
            ..arrival()
        };
        assert_eq!(after(&[], &from), OURS);
    }

    #[test]
    fn via_is_appended_unless_switched_off() {
        let lines = after(&[("Via", "1.0 fred")], &arrival());
        assert_eq!(lines[..2], ["via: 1.0 fred", "via: 1.1 evenkeel"]);
        let lines = after(
            &[("Via", "1.0 fred")],
            &Arrival {
                via: false,
                ..arrival()
            },
        );
        assert_eq!(lines[0], "via: 1.0 fred");
        assert!(lines[1].starts_with("x-forwarded"));
    }

    #[test]
    fn trace_context_is_left_alone() {
        let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let lines = [("traceparent", &trace[13..]), ("tracestate", "a=b")];
        for from in [arrival(), trusted()] {
            let lines = after(&lines, &from);
            assert_eq!(lines[..2], [trace, "tracestate: a=b"]);
        }
    }

    #[test]
    fn id_is_kept_from_trusted_proxies_only() {
        let id = |lines: &[&str], arrival: &Arrival| {
            let mut fields = Fields::new();
            for value in lines {
                fields.append(Known::XRequestId, value.as_bytes());
            }
            let id = set_forwarding(
                &mut fields,
                arrival,
                &mut Introductions::default(),
                &mut Random::seeded(7),
            );
            assert_eq!(fields.count(Known::XRequestId), 1);
            String::from_utf8_lossy(&id).into_owned()
        };
        let ours = id(&[], &arrival());
        assert_eq!(ours.len(), 32, "128 bits in hexadecimal");
        assert!(ours.bytes().all(|byte| b"0123456789abcdef".contains(&byte)));
        assert_eq!(id(&["a-1"], &trusted()), "a-1");
        assert_eq!(id(&["a-1"], &arrival()), ours);
        for bad in ["", "a b", "a\"b", "a,b", "é", "<script>", &"a".repeat(129)] {
            assert_eq!(id(&[bad], &trusted()), ours, "{bad}");
        }
        assert_eq!(id(&["a", "b"], &trusted()), ours, "which of two?");
    }

    #[test]
    fn each_client_is_introduced_as_itself_whatever_was_kept() {
        let mut introductions = Introductions::default();
        let arrivals: Vec<Arrival> = (0..2_000_u16)
            .map(|number| Arrival {
                source: IpAddr::from([192, 0, (number >> 8) as u8, number as u8]),
                port: 80 + number % 3,
                via: number % 5 > 0,
                scheme: if number % 7 > 0 { "http" } else { "https" },
                ..arrival()
            })
            .collect();
        for arrival in arrivals.iter().chain(arrivals.iter().rev()) {
            let kept = format!("{:?}", introductions.of(arrival));
            assert_eq!(kept, format!("{:?}", introduce(arrival)));
        }
    }

    proptest! {
        #[test]
        fn digits_are_those_of_the_number(number: u128) {
            let text = hexadecimal(number).to_vec();
            prop_assert_eq!(String::from_utf8(text).unwrap(), format!("{number:032x}"));
        }

        #[test]
        fn whatever_a_stranger_sends_the_server_hears_ours(
            lines in prop::collection::vec((0..SPOOFED.len(), "[ -~]{0,30}"), 0..8),
        ) {
            let lines: Vec<(&str, &str)> =
                lines.iter().map(|(which, value)| (SPOOFED[*which].0, value.as_str())).collect();
            prop_assert_eq!(after(&lines, &arrival()), OURS);
        }
    }
}

use proptest::prelude::*;

use super::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend((block.len() as u16).to_be_bytes());
    header.extend(block);
    header
}

const V4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0x10, 0xe1, 0x01, 0xbb];

fn v4_and(extensions: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[V4, extensions].concat())
}

fn proxied(source: &str, destination: &str) -> Endpoints {
    Endpoints::Proxied {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
    }
}

/// As it must be read whatever follows, and not before its last byte.
fn read(header: &[u8]) -> Endpoints {
    for cut in 0..header.len() {
        let parsed = parse(&header[..cut]);
        assert_eq!(
            parsed,
            Ok(None),
            "of {cut} bytes of {:?}",
            header.escape_ascii().to_string()
        );
    }
    let (endpoints, length) = parse(header).expect("a header").expect("a whole one");
    assert_eq!(length, header.len());
    for after in [
        "GET / HTTP/1.1\r\n",
        "\x16\x03\x01",
        "PROXY UNKNOWN\r\n",
        "\r\n\r\n\0\r\nQUIT\n",
    ] {
        let more = [header, after.as_bytes()].concat();
        assert_eq!(parse(&more), Ok(Some((endpoints, length))));
    }
    endpoints
}

#[test]
fn lines_name_their_client() {
    for (line, expected) in [
        (
            "PROXY TCP4 192.0.2.1 198.51.100.7 4321 443\r\n",
            proxied("192.0.2.1:4321", "198.51.100.7:443"),
        ),
        (
            "PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
            proxied("0.0.0.0:0", "255.255.255.255:65535"),
        ),
        (
            "PROXY TCP6 2001:DB8::1 ::1 4321 443\r\n",
            proxied("[2001:db8::1]:4321", "[::1]:443"),
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:207 1 2\r\n",
            proxied("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.7]:2"),
        ),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            proxied(
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            ),
        ),
        ("PROXY UNKNOWN\r\n", Endpoints::Real),
        ("PROXY UNKNOWN whatever it is, \u{e9}\r\n", Endpoints::Real),
        // The longest line of section 2.1.
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Endpoints::Real,
        ),
    ] {
        assert_eq!(read(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn lines_that_are_not_exactly_so_are_refused() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n",
        "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXYTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2\r\n",
        "PROXY TCP4 192.0.2.1\r\n",
        "PROXY TCP4\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1.5 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 localhost 1 2\r\n",
        "PROXY TCP4 192.0.2.1, 192.0.2.2 1 2\r\n",
        "PROXY TCP4 0xc0.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 [::1] [::1] 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP6 1::2::3 ::1 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n",
        "PROXY TCP6 12345::1 ::1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 00 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 0x50\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r \n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\0\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN a\nb\r\n",
        // 108 bytes.
        "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 655355\r\n",
    ] {
        assert!(parse(line.as_bytes()).is_err(), "{line:?} is no header");
    }
}

#[test]
fn binary_headers_name_their_client() {
    let v4 = proxied("192.0.2.1:4321", "198.51.100.7:443");
    assert_eq!(read(&v2(0x21, 0x11, V4)), v4);
    assert_eq!(read(&v2(0x21, 0x12, V4)), v4, "a datagram's client");
    let mut v6 = [0; 36];
    (v6[0], v6[15], v6[31], v6[33], v6[35]) = (0x20, 1, 2, 80, 81);
    assert_eq!(
        read(&v2(0x21, 0x21, &v6)),
        proxied("[2000::1]:80", "[::2]:81")
    );
    // A server name, something unknown, and nothing.
    let extensions = [
        &[0x02, 0, 3][..],
        b"a.b",
        &[0xe0, 0, 2, 1, 2],
        &[0x04, 0, 0],
    ]
    .concat();
    assert_eq!(read(&v4_and(&extensions)), v4);
    assert_eq!(
        read(&v4_and(&[0x20, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 0])),
        v4,
        "of TLS"
    );
    for (command, family, block) in [
        (0x20, 0x00, &[][..]),
        (0x20, 0x11, V4),
        // LOCAL: what follows is nobody's business.
        (0x20, 0x11, &[1, 2, 3]),
        (0x20, 0x00, &[0x03, 0, 9]),
        (0x21, 0x00, &[]),
        (0x21, 0x00, &[1, 2, 3]),
        (0x21, 0x31, &[b'/'; 216]),
        (0x21, 0x32, &[0; 216]),
    ] {
        assert_eq!(read(&v2(command, family, block)), Endpoints::Real);
    }
}

#[test]
fn binary_headers_that_are_not_exactly_so_are_refused() {
    let long = [0; 521];
    for (header, what) in [
        (v2(0x11, 0x11, V4), "version 1"),
        (v2(0x31, 0x11, V4), "version 3"),
        (v2(0x01, 0x11, V4), "version 0"),
        (v2(0x22, 0x11, V4), "an unknown command"),
        (v2(0x2f, 0x11, V4), "the last command"),
        (v2(0x21, 0x10, V4), "no transport"),
        (v2(0x21, 0x13, V4), "an unknown transport"),
        (v2(0x21, 0x01, V4), "a transport without a family"),
        (v2(0x21, 0x41, V4), "an unknown family"),
        (v2(0x20, 0x41, V4), "an unknown family of LOCAL"),
        (v2(0x21, 0xff, V4), "the last family"),
        (v2(0x21, 0x11, &V4[..11]), "IPv4 in 11 bytes"),
        (v2(0x21, 0x11, &[]), "IPv4 in no bytes"),
        (v2(0x21, 0x21, &[0; 35]), "IPv6 in 35 bytes"),
        (v2(0x21, 0x31, &[0; 215]), "paths in 215 bytes"),
        (v2(0x20, 0x00, &long), "537 bytes of LOCAL"),
        (v4_and(&long[12..]), "537 bytes"),
        (v4_and(&[0x04]), "a type alone"),
        (v4_and(&[0x04, 0]), "half a length"),
        (v4_and(&[0x04, 0, 1]), "an extension without its value"),
        (v4_and(&[0x04, 0, 2, 1]), "one byte too few"),
        (v4_and(&[0x04, 0xff, 0xff, 1]), "far too few"),
        (v4_and(&[0x04, 0, 0, 7]), "a byte after the last"),
        (v4_and(&[0x03, 0, 3, 1, 2, 3]), "a checksum of 3 bytes"),
        (v4_and(&[0x03, 0, 4, 1, 2, 3, 4]), "a wrong checksum"),
        (v4_and(&[0x20, 0, 4, 0, 0, 0, 0]), "TLS in 4 bytes"),
        (
            v4_and(&[0x20, 0, 8, 0, 0, 0, 0, 0, 0x21, 0, 1]),
            "an inner one beyond the outer",
        ),
        (
            b"\r\n\r\n\0\r\nQUIT\r\n\x21\x11\0\x0c".to_vec(),
            "another signature",
        ),
        (b"\r\n\r\nGET / HTTP/1.1\r\n".to_vec(), "empty lines"),
        (b"\n".to_vec(), "a line feed"),
        (b"\x16\x03\x01\x02\x00".to_vec(), "TLS"),
        (b"\0".to_vec(), "a zero"),
    ] {
        assert!(parse(&header).is_err(), "{what} is no header");
    }
}

#[test]
fn refused_as_soon_as_it_can_be_told() {
    for (bytes, last) in [
        (&b"GET"[..], 1),
        (b"PROXX", 5),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", 31),
        (b"\r\n\r\nG", 5),
        (b"\r\n\r\n\0\r\nQUIT\n\x11", 13),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x13", 14),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0b", 16),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\xff\xff", 16),
    ] {
        assert_eq!(parse(&bytes[..last - 1]), Ok(None));
        assert!(parse(&bytes[..last]).is_err());
    }
}

#[test]
fn checksum_is_that_of_the_header_with_zeros_in_its_place() {
    let mut header = v4_and(&[0x03, 0, 4, 0, 0, 0, 0]);
    let check_value = binary::crc32c(b"123456789", 9);
    assert_eq!(check_value, 0xe306_9283);
    let at = header.len() - 4;
    let sum = binary::crc32c(&header, at).to_be_bytes();
    header[at..].copy_from_slice(&sum);
    read(&header);
    // With another type it is no checksum.
    for at in (16..header.len()).filter(|at| *at != 28) {
        let mut other = header.clone();
        other[at] ^= 0x40;
        assert!(parse(&other).is_err(), "with byte {at} changed");
    }
    let twice = [&[0x03, 0, 4][..], &sum, &[0x03, 0, 4], &sum].concat();
    assert!(parse(&v4_and(&twice)).is_err(), "two checksums");
}

#[test]
fn what_we_write_is_what_we_read() {
    for (source, destination) in [
        ("192.0.2.1:4321", "198.51.100.7:443"),
        ("[2001:db8::1]:1", "[::1]:65535"),
        ("192.0.2.1:4321", "[2001:db8::7]:443"),
    ] {
        let named = proxied(source, destination);
        let Endpoints::Proxied {
            source,
            destination,
        } = named
        else {
            unreachable!("made so");
        };
        for header in [
            proxied_v1(source, destination),
            proxied_v2(source, destination),
        ] {
            let Endpoints::Proxied {
                source: from,
                destination: to,
            } = read(&header)
            else {
                panic!("names nobody");
            };
            assert_eq!(
                (from.ip().to_canonical(), from.port()),
                (source.ip(), source.port())
            );
            assert_eq!((to.ip(), to.port()), (destination.ip(), destination.port()));
        }
    }
    assert_eq!(read(unknown_v1()), Endpoints::Real);
    assert_eq!(read(local_v2()), Endpoints::Real);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_read_too_much(
        start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", SIGNATURE]),
        rest in prop::collection::vec(any::<u8>(), 0..700),
    ) {
        let bytes = [start, &rest].concat();
        match parse(&bytes) {
            Ok(Some((_, length))) => prop_assert!(length <= bytes.len() && length <= MAX_BYTES),
            Ok(None) => prop_assert!(bytes.len() < MAX_BYTES),
            Err(_) => {}
        }
    }

    #[test]
    fn cut_anywhere_a_header_is_waited_for(
        source: [u8; 4], destination: [u8; 4], ports: (u16, u16), cut in 0usize..200,
    ) {
        let (source, destination) = ((source, ports.0).into(), (destination, ports.1).into());
        for header in [proxied_v1(source, destination), proxied_v2(source, destination)] {
            let cut = cut.min(header.len() - 1);
            prop_assert_eq!(parse(&header[..cut]), Ok(None));
            let whole = Endpoints::Proxied { source, destination };
            prop_assert_eq!(parse(&header), Ok(Some((whole, header.len()))));
        }
    }
}

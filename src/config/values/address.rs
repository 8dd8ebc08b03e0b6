//! Addresses: of listeners, of servers, of the admin listener, and networks.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::model::{BindAddress, ServerAddress};
use crate::config::values::Complaint;

/// Longest path that `sockaddr_un` holds, without its final zero.
const MAX_UNIX_PATH: usize = 107;

/// Of a listener, or of the admin listener.
pub(in crate::config) fn bind(text: &str) -> Result<BindAddress, Complaint> {
    match text.strip_prefix("unix:") {
        Some(path) => unix(path).map(|path| BindAddress::Unix(Arc::from(path))),
        None => bound(text).map(BindAddress::Tcp),
    }
}

/// An address to bind: no names, because a name may be several addresses or none.
fn bound(text: &str) -> Result<SocketAddr, Complaint> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.is_empty() {
        return Err(Complaint::new("it is empty").suggest("0.0.0.0:8080"));
    }
    let bare_port = text.trim_start_matches("*:").trim_start_matches(':');
    if !bare_port.is_empty() && bare_port.bytes().all(|b| b.is_ascii_digit()) {
        port(bare_port)?;
        return Err(
            Complaint::new("the IP address is missing").suggest(&format!("0.0.0.0:{bare_port}"))
        );
    }
    let (host, number) = host_and_port(text)?;
    if host.eq_ignore_ascii_case("localhost") {
        let cause = "an IP address is needed to bind, not a name";
        return Err(Complaint::new(cause).suggest(&format!("127.0.0.1:{number}")));
    }
    match looks_like_ipv4(host) {
        true => Err(Complaint::new(
            "not an IPv4 address: four numbers from 0 to 255",
        )),
        false => Err(Complaint::new(
            "an IP address is needed to bind, not a name",
        )),
    }
}

pub(in crate::config) fn server(text: &str) -> Result<ServerAddress, Complaint> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map(|path| ServerAddress::Unix(Arc::from(path)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(Complaint::new("no server listens on port 0")),
            _ => Ok(ServerAddress::Ip(address)),
        };
    }
    if text.is_empty() {
        return Err(Complaint::new("it is empty"));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or(rest);
        let port = if scheme == "https" { 443 } else { 80 };
        let address = if rest.contains(':') {
            rest.to_owned()
        } else {
            format!("{rest}:{port}")
        };
        return Err(Complaint::new("an address has no scheme and no path").suggest(&address));
    }
    if let Some(name) = text.strip_prefix("srv:") {
        return service(name);
    }
    if text.starts_with('_') && service(text).is_ok() {
        return Err(Complaint::new("the name of SRV records is marked as such")
            .suggest(&format!("srv:{text}")));
    }
    let (host, number) = host_and_port(text)?;
    if number == 0 {
        return Err(Complaint::new("no server listens on port 0"));
    }
    if looks_like_ipv4(host) {
        return Err(Complaint::new(
            "not an IPv4 address: four numbers from 0 to 255",
        ));
    }
    name(host)?;
    Ok(ServerAddress::Name(
        Arc::from(host.to_ascii_lowercase()),
        number,
    ))
}

/// RFC 2782: `_service._protocol.domain`. The records give the ports.
fn service(text: &str) -> Result<ServerAddress, Complaint> {
    let example = "srv:_http._tcp.api.internal";
    if let Some((name, port)) = text.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(
            Complaint::new("SRV records give the ports, no port is given with the name")
                .suggest(&format!("srv:{name}")),
        );
    }
    let labels: Vec<&str> = text.splitn(3, '.').collect();
    let &[service, protocol, domain] = labels.as_slice() else {
        return Err(
            Complaint::new("the name of SRV records is _service._protocol.domain").suggest(example),
        );
    };
    if !service.starts_with('_') || !protocol.starts_with('_') {
        let marked = |label: &str| format!("_{}", label.trim_start_matches('_'));
        let (service, protocol) = (marked(service), marked(protocol));
        return Err(
            Complaint::new("the service and the protocol of SRV records begin with `_`")
                .suggest(&format!("srv:{service}.{protocol}.{domain}")),
        );
    }
    if service.len() == 1 || protocol.len() == 1 || domain.trim_matches('.').is_empty() {
        return Err(
            Complaint::new("the name of SRV records is _service._protocol.domain").suggest(example),
        );
    }
    name(text)?;
    Ok(ServerAddress::Srv(Arc::from(text.to_ascii_lowercase())))
}

fn unix(path: &str) -> Result<&Path, Complaint> {
    match path {
        _ if !path.starts_with('/') => Err(Complaint::new("the path of a unix socket is absolute")
            .suggest(&format!("unix:/{path}"))),
        _ if path.len() > MAX_UNIX_PATH => Err(Complaint::new(format!(
            "the path of a unix socket has at most {MAX_UNIX_PATH} bytes"
        ))),
        _ if path.contains('\0') => Err(Complaint::new("a path has no NUL")),
        _ => Ok(Path::new(path)),
    }
}

fn host_and_port(text: &str) -> Result<(&str, u16), Complaint> {
    if let Some((host, number)) = text.rsplit_once(':')
        && host.parse::<Ipv6Addr>().is_ok()
    {
        return Err(Complaint::new("an IPv6 address stands in brackets")
            .suggest(&format!("[{host}]:{number}")));
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
        return Err(
            Complaint::new("an IPv6 address stands in brackets, and a port follows")
                .suggest(&format!("[{address}]:8080")),
        );
    }
    let Some((host, number)) = text.rsplit_once(':') else {
        return Err(Complaint::new("the port is missing").suggest(&format!("{text}:80")));
    };
    if host.starts_with('[') {
        return Err(Complaint::new("not an IPv6 address and a port"));
    }
    if host.is_empty() {
        return Err(Complaint::new("the address before the port is missing")
            .suggest(&format!("127.0.0.1:{number}")));
    }
    Ok((host, port(number)?))
}

fn port(text: &str) -> Result<u16, Complaint> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits => Ok(port),
        _ => Err(Complaint::new("a port is a number from 1 to 65535")),
    }
}

fn looks_like_ipv4(host: &str) -> bool {
    host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// RFC 1123 section 2.1, with `_`, which container networks use.
fn name(host: &str) -> Result<(), Complaint> {
    if host.len() > 253 {
        return Err(Complaint::new("a host name has at most 253 characters"));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    for label in host.split('.') {
        let characters = label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if label.is_empty()
            || label.len() > 63
            || label.starts_with('-')
            || label.ends_with('-')
            || !characters
        {
            return Err(Complaint::new(
                "not a host name: letters, digits and `-` between dots",
            ));
        }
    }
    Ok(())
}

pub(in crate::config) fn network(text: &str) -> Result<IpNet, Complaint> {
    if let Ok(network) = text.parse::<IpNet>() {
        return Ok(canonical(network));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    match text.split_once('/') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => Err(Complaint::new(
            "the length of the prefix is 0 to 32, for IPv6 0 to 128",
        )),
        _ => Err(Complaint::new("not an IP address")),
    }
}

/// IPv4 addresses written as IPv6 are compared as what they are, and so must a network of them.
fn canonical(network: IpNet) -> IpNet {
    let address = network.addr().to_canonical();
    match (network, address) {
        (IpNet::V6(mapped), IpAddr::V4(_)) if mapped.prefix_len() >= 96 => {
            IpNet::new(address, mapped.prefix_len() - 96).unwrap_or(network)
        }
        _ => network,
    }
}

/// Whether binding both would put two listeners on one socket address.
pub(in crate::config) fn overlap(a: &BindAddress, b: &BindAddress) -> bool {
    let (BindAddress::Tcp(a), BindAddress::Tcp(b)) = (a, b) else {
        return a == b;
    };
    let family = a.is_ipv4() == b.is_ipv4();
    let wild = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip()
            || (wild && family)
            || (a.ip().is_unspecified() && a.is_ipv6())
            || (b.ip().is_unspecified() && b.is_ipv6()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn servers_are_addresses_names_and_sockets() {
        assert_eq!(server("10.0.0.1:80").unwrap().to_string(), "10.0.0.1:80");
        assert_eq!(server("[::1]:80").unwrap().to_string(), "[::1]:80");
        assert_eq!(
            server("App.Internal:80").unwrap().to_string(),
            "app.internal:80"
        );
        assert_eq!(server("my_app:80").unwrap().to_string(), "my_app:80");
        assert_eq!(
            server("unix:/run/app.sock").unwrap().to_string(),
            "unix:/run/app.sock"
        );
    }

    #[test]
    fn wrong_servers_say_what_to_write() {
        let help = |text| server(text).unwrap_err().help.unwrap_or_default();
        assert_eq!(help("10.0.0.1"), "write \"10.0.0.1:80\"");
        assert_eq!(help("http://app/x"), "write \"app:80\"");
        assert_eq!(help("https://app"), "write \"app:443\"");
        assert_eq!(help("::1:80"), "write \"[::1]:80\"");
        assert_eq!(help("unix:run/x"), "write \"unix:/run/x\"");
        for text in [
            "10.0.0.256:80",
            "a:0",
            "a:65536",
            "a:+80",
            "-a:80",
            "a..b:80",
            "a b:80",
            "[::1]",
            ":80",
            "a:",
        ] {
            assert!(server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn srv_names_are_marked_and_have_no_port() {
        let text = "srv:_HTTP._tcp.api.internal";
        assert_eq!(server(text).unwrap().to_string(), text.to_ascii_lowercase());
        assert!(server("srv:_http._tcp.internal.").is_ok());
        let help = |text| server(text).unwrap_err().help.unwrap_or_default();
        let written = "write \"srv:_http._tcp.api.internal\"";
        for text in [
            "_http._tcp.api.internal",
            "srv:_http._tcp.api.internal:80",
            "srv:http.tcp.api.internal",
            "srv:_http.tcp.api.internal",
            "srv:_http._tcp",
            "srv:api",
            "srv:",
        ] {
            assert_eq!(help(text), written, "{text}");
        }
        for text in [
            "srv:_._tcp.a",
            "srv:_http._tcp.",
            "srv:_http._tcp.a b",
            "srv:_h._tcp..a",
        ] {
            assert!(server(text).is_err(), "{text}");
        }
        assert!(
            server("_my_app:80").is_ok(),
            "a name that only looks like it"
        );
    }

    #[test]
    fn listeners_bind_addresses_only() {
        let help = |text| bind(text).unwrap_err().help.unwrap_or_default();
        assert_eq!(help("8080"), "write \"0.0.0.0:8080\"");
        assert_eq!(help(":8080"), "write \"0.0.0.0:8080\"");
        assert_eq!(help("*:8080"), "write \"0.0.0.0:8080\"");
        assert_eq!(help("localhost:8080"), "write \"127.0.0.1:8080\"");
        assert_eq!(bind("unix:/x").unwrap().to_string(), "unix:/x");
        assert_eq!(help("unix:x"), "write \"unix:/x\"");
    }

    #[test]
    fn wildcards_overlap_what_they_hold() {
        let overlap = |a: &str, b: &str| overlap(&bind(a).unwrap(), &bind(b).unwrap());
        assert!(overlap("0.0.0.0:80", "127.0.0.1:80"));
        assert!(overlap("[::]:80", "127.0.0.1:80"));
        assert!(!overlap("0.0.0.0:80", "[::1]:80"));
        assert!(!overlap("127.0.0.1:0", "127.0.0.1:0"));
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_refused(text in "([a-z0-9:\\[\\]./%*-]|\\PC){0,30}") {
            let _ = (server(&text), bind(&text), network(&text));
        }

        #[test]
        fn servers_round_trip(ip in any::<IpAddr>(), port in 1..=u16::MAX) {
            let text = SocketAddr::new(ip, port).to_string();
            prop_assert_eq!(server(&text).unwrap().to_string(), text);
        }
    }
}

//! A name server over UDP and TCP that does what it is told to: packets made by hand (RFC 1035
//! section 4), so that it can also say what no library would.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How questions are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Honest,
    Silent,
    /// With this response code, and nothing else.
    Code(u8),
    /// Over UDP only that it does not fit; over TCP honestly.
    Truncated,
    /// Noise with the right id.
    Garbage,
    /// Half of the answer.
    Cut,
    /// The answer to another question.
    OtherId,
    /// Ten thousand addresses, each record naming itself by a pointer that never ends.
    Loop,
}

#[derive(Debug, Clone)]
pub enum Data {
    Ip(IpAddr),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: String,
    },
}

#[derive(Default)]
struct Zone {
    /// By name; a name without records is there and empty.
    records: HashMap<String, (u32, Vec<Data>)>,
    manner: Option<Manner>,
    /// Name and type, as asked.
    asked: Vec<(String, u16)>,
    over_tcp: usize,
    /// Addresses of targets go along with SRV records.
    additional: bool,
}

/// Stops when dropped.
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    running: Mutex<Option<Threads>>,
}

struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;
/// How soon a thread sees that it shall end.
const TICK: Duration = Duration::from_millis(20);
/// By this process, to give each an address of its own.
static STARTED: AtomicU32 = AtomicU32::new(0);

impl Dns {
    pub fn start() -> Self {
        let zone = Arc::new(Mutex::new(Zone {
            additional: true,
            ..Zone::default()
        }));
        // A loopback address of its own, which nobody's connection goes out from: its port is free
        // over UDP and TCP, and still free after a stop.
        let [_, a, b, c] =
            (process::id() << 8 | STARTED.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
        let udp =
            UdpSocket::bind((Ipv4Addr::new(127, 64 | a & 63, b, c), 0)).expect("a port is free");
        let address = udp.local_addr().expect("has an address");
        let tcp = TcpListener::bind(address).expect("the port is free over TCP");
        Dns {
            running: Mutex::new(Some(serve(udp, tcp, &zone))),
            address,
            zone,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().expect("no panic holds it")
    }

    /// The name has these addresses from now on.
    pub fn set(&self, name: &str, ips: &[&str], ttl: u32) {
        let ips = ips
            .iter()
            .map(|ip| Data::Ip(ip.parse().expect("an IP address")));
        self.put(name, ips.collect(), ttl);
    }

    /// Priority, weight, port, target.
    pub fn set_srv(&self, name: &str, records: &[(u16, u16, u16, &str)], ttl: u32) {
        let records = records
            .iter()
            .map(|(priority, weight, port, target)| Data::Srv {
                priority: *priority,
                weight: *weight,
                port: *port,
                target: (*target).to_owned(),
            });
        self.put(name, records.collect(), ttl);
    }

    pub fn put(&self, name: &str, data: Vec<Data>, ttl: u32) {
        self.zone().records.insert(name.to_owned(), (ttl, data));
    }

    pub fn remove(&self, name: &str) {
        self.zone().records.remove(name);
    }

    pub fn behave(&self, manner: Manner) {
        self.zone().manner = Some(manner);
    }

    pub fn without_additional(&self) {
        self.zone().additional = false;
    }

    /// How often a name was asked for, by whatever type.
    pub fn asked(&self, name: &str) -> usize {
        let zone = self.zone();
        zone.asked.iter().filter(|(asked, _)| asked == name).count()
    }

    pub fn over_tcp(&self) -> usize {
        self.zone().over_tcp
    }

    /// Nobody listens from now on.
    pub fn stop(&self) {
        let running = self.running.lock().expect("no panic holds it").take();
        if let Some(running) = running {
            running.stop.store(true, Ordering::Relaxed);
            for thread in running.threads {
                thread.join().expect("does not panic");
            }
        }
    }

    /// Answers again, at the same address.
    pub fn resume(&self) {
        let udp = UdpSocket::bind(self.address).expect("nobody else has the address");
        let tcp = TcpListener::bind(self.address).expect("nobody else has the address");
        *self.running.lock().expect("no panic holds it") = Some(serve(udp, tcp, &self.zone));
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(udp: UdpSocket, tcp: TcpListener, zone: &Arc<Mutex<Zone>>) -> Threads {
    let stop = Arc::new(AtomicBool::new(false));
    udp.set_read_timeout(Some(TICK)).expect("is a socket");
    tcp.set_nonblocking(true).expect("is a socket");
    let (ended, known) = (stop.clone(), zone.clone());
    let over_udp = thread::spawn(move || {
        let mut buffer = [0; 4096];
        while !ended.load(Ordering::Relaxed) {
            if let Ok((length, from)) = udp.recv_from(&mut buffer)
                && let Some(answer) = answer(&buffer[..length], &known, false)
            {
                // Who asked may have gone.
                let _ = udp.send_to(&answer, from);
            }
        }
    });
    let (ended, known) = (stop.clone(), zone.clone());
    let over_tcp = thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            match tcp.accept() {
                Ok((stream, _)) => converse(stream, &known, &ended),
                Err(_) => thread::sleep(TICK),
            }
        }
    });
    Threads {
        stop,
        threads: vec![over_udp, over_tcp],
    }
}

/// Length and question, length and answer (RFC 1035 section 4.2.2).
fn converse(mut stream: TcpStream, zone: &Mutex<Zone>, ended: &AtomicBool) {
    stream.set_nonblocking(false).expect("is a socket");
    stream.set_read_timeout(Some(TICK)).expect("is a socket");
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    while !ended.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => received.extend_from_slice(&buffer[..length]),
            Err(_) => continue,
        }
        while let Some(end) = received
            .first_chunk()
            .map(|length| 2 + usize::from(u16::from_be_bytes(*length)))
            .filter(|end| received.len() >= *end)
        {
            let question: Vec<u8> = received.drain(..end).skip(2).collect();
            let Some(answer) = answer(&question, zone, true) else {
                continue;
            };
            let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
            framed.extend(answer);
            if stream.write_all(&framed).is_err() {
                return;
            }
        }
    }
}

fn answer(query: &[u8], zone: &Mutex<Zone>, tcp: bool) -> Option<Vec<u8>> {
    let mut zone = zone.lock().expect("no panic holds it");
    let (name, end) = read_name(query)?;
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    let question = query.get(12..end + 4)?;
    zone.asked.push((name.clone(), kind));
    zone.over_tcp += usize::from(tcp);
    let manner = zone.manner.unwrap_or(Manner::Honest);
    let packet = |code: u8, truncated: bool, answers: &[Vec<u8>], more: &[Vec<u8>]| {
        let mut packet = query[..2].to_vec();
        packet.extend([0x81 | u8::from(truncated) << 1, 0x80 | code, 0, 1]);
        packet.extend((answers.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend((more.len() as u16).to_be_bytes());
        packet.extend(question);
        packet.extend(answers.iter().chain(more).flatten());
        packet
    };
    let honest = || match zone.records.get(&name) {
        None => packet(3, false, &[], &[]),
        Some((ttl, data)) => {
            let fitting = data.iter().filter(|data| kind == kind_of(data));
            let answers: Vec<_> = fitting.map(|data| record(&name, *ttl, data)).collect();
            let more = match kind == SRV && zone.additional {
                true => additional(&zone, data),
                false => Vec::new(),
            };
            packet(0, false, &answers, &more)
        }
    };
    match manner {
        Manner::Honest => {
            let whole = honest();
            match whole.len() > 1200 && !tcp {
                true => Some(packet(0, true, &[], &[])),
                false => Some(whole),
            }
        }
        Manner::Silent => None,
        Manner::Code(code) => Some(packet(code, false, &[], &[])),
        Manner::Truncated if tcp => Some(honest()),
        Manner::Truncated => Some(packet(0, true, &[], &[])),
        Manner::Garbage => {
            let mut noise = query[..2].to_vec();
            noise.extend((0..200_u8).map(|n| n.wrapping_mul(73)));
            Some(noise)
        }
        Manner::Cut => {
            let whole = honest();
            Some(whole[..whole.len() - 5].to_vec())
        }
        Manner::OtherId => {
            let mut other = honest();
            other[0] ^= 0x55;
            Some(other)
        }
        Manner::Loop => {
            let at = 12 + question.len();
            let looping = [
                0xc0 | (at >> 8) as u8,
                at as u8,
                0,
                1,
                0,
                1,
                0,
                0,
                0,
                9,
                0,
                4,
            ];
            Some(packet(
                0,
                false,
                &[[&looping[..], &[10, 0, 0, 1]].concat()],
                &[],
            ))
        }
    }
}

fn additional(zone: &Zone, data: &[Data]) -> Vec<Vec<u8>> {
    let targets = data.iter().filter_map(|data| match data {
        Data::Srv { target, .. } => Some(target),
        Data::Ip(_) => None,
    });
    targets
        .filter_map(|target| Some((target, zone.records.get(target)?)))
        .flat_map(|(target, (ttl, data))| data.iter().map(move |data| record(target, *ttl, data)))
        .collect()
}

fn kind_of(data: &Data) -> u16 {
    match data {
        Data::Ip(IpAddr::V4(_)) => A,
        Data::Ip(IpAddr::V6(_)) => AAAA,
        Data::Srv { .. } => SRV,
    }
}

fn record(name: &str, ttl: u32, data: &Data) -> Vec<u8> {
    let mut record = write_name(name);
    record.extend(kind_of(data).to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    let bytes = match data {
        Data::Ip(IpAddr::V4(ip)) => Ipv4Addr::octets(ip).to_vec(),
        Data::Ip(IpAddr::V6(ip)) => Ipv6Addr::octets(ip).to_vec(),
        Data::Srv {
            priority,
            weight,
            port,
            target,
        } => {
            let numbers = [priority, weight, port].map(|number| number.to_be_bytes());
            [numbers.concat(), write_name(target)].concat()
        }
    };
    record.extend((bytes.len() as u16).to_be_bytes());
    record.extend(bytes);
    record
}

fn write_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let labels = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// The name of the question, lower case, and where it ends.
fn read_name(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
}

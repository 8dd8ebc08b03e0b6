//! Between a proxy and a server: passes bytes on, until it becomes a black hole.
//!
//! In a hole, what has been connected stays so and nothing moves, and nobody answers a SYN: as when
//! a host is gone from the network without a word. No privileges are needed for it: a backlog that
//! is full drops what comes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

/// Gone when dropped.
pub struct Relay {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    hole: Arc<Hole>,
    /// What fills the backlog.
    filling: Mutex<Vec<TcpStream>>,
}

#[derive(Default)]
struct Hole {
    is: Mutex<bool>,
    changed: Condvar,
    over: AtomicBool,
}

impl Hole {
    /// Waits until there is none.
    fn pass(&self) {
        let is = self.is.lock().expect("no panic");
        let waited = self.changed.wait_while(is, |is| *is);
        drop(waited.expect("no panic"));
    }
}

impl Relay {
    pub fn to(server: SocketAddr) -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").expect("a port"));
        let hole: Arc<Hole> = Arc::default();
        let relay = Relay {
            address: listener.local_addr().expect("bound"),
            listener: listener.clone(),
            hole: hole.clone(),
            filling: Mutex::default(),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                hole.pass();
                if hole.over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                for (from, to) in [(&stream, &server), (&server, &stream)] {
                    from.set_nodelay(true).expect("a socket");
                    let copies = from
                        .try_clone()
                        .and_then(|from| Ok((from, to.try_clone()?)));
                    let (from, to) = copies.expect("descriptors are left");
                    let hole = hole.clone();
                    thread::spawn(move || pass_on(from, to, &hole));
                }
            }
        });
        relay
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes any more, and nobody is answered.
    pub fn open_hole(&self) {
        *self.hole.is.lock().expect("no panic") = true;
        SockRef::from(&*self.listener)
            .listen(0)
            .expect("a listener");
        let mut filling = self.filling.lock().expect("no panic");
        // Twice in a row: this machine may be busy for a moment.
        let patience = Duration::from_millis(60);
        let mut unanswered = 0;
        while unanswered < 2 {
            match TcpStream::connect_timeout(&self.address, patience) {
                Ok(stream) => {
                    unanswered = 0;
                    filling.push(stream);
                }
                Err(_) => unanswered += 1,
            }
            assert!(filling.len() < 1000, "the backlog never fills");
        }
    }

    /// As before: what was held back goes on.
    pub fn close_hole(&self) {
        self.filling.lock().expect("no panic").clear();
        let listener = SockRef::from(&*self.listener);
        listener.listen(128).expect("a listener");
        *self.hole.is.lock().expect("no panic") = false;
        self.hole.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.hole.over.store(true, Ordering::SeqCst);
        self.close_hole();
        // Wakes the accept loop, which then closes its socket.
        drop(TcpStream::connect(self.address));
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, hole: &Hole) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        hole.pass();
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    hole.pass();
    for stream in [&from, &to] {
        // Fails for those that have ended.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

//! Clients that count: everything but the answer that was asked for is a failure.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ClientConfig;

use crate::support::h2::H2;
use crate::support::{Client, DEADLINE, tls};

#[derive(Default)]
struct Count {
    stop: AtomicBool,
    served: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

pub struct Load {
    count: Arc<Count>,
    clients: Vec<JoinHandle<()>>,
}

impl Count {
    fn goes_on(&self) -> bool {
        // Busy, but not all that the machine has.
        std::thread::sleep(Duration::from_millis(1));
        !self.stop.load(Ordering::Relaxed)
    }

    fn saw(&self, what: &str, answer: Result<(), String>) {
        match answer {
            Ok(()) => drop(self.served.fetch_add(1, Ordering::Relaxed)),
            Err(why) => self
                .failures
                .lock()
                .expect("no panic")
                .push(format!("{what}: {why}")),
        }
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
const GET_AND_CLOSE: &str = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// One request on a kept connection; true if it was the last.
fn asked(client: &mut Client) -> Result<bool, String> {
    client.try_send(GET).map_err(|error| error.to_string())?;
    let answer = client.try_response().map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("{} {}", answer.status, answer.text()));
    }
    Ok(answer.header("connection") == Some("close"))
}

impl Load {
    pub fn new() -> Self {
        Load {
            count: Arc::default(),
            clients: Vec::new(),
        }
    }

    fn client(&mut self, body: impl FnOnce(&Count) + Send + 'static) {
        let count = self.count.clone();
        self.clients.push(std::thread::spawn(move || body(&count)));
    }

    /// Connections that are kept for as long as they may be.
    pub fn kept(&mut self, address: SocketAddr) {
        self.keep("kept", move || {
            TcpStream::connect(address)
                .map(Client::over)
                .map_err(|error| error.to_string())
        });
    }

    pub fn tls(&mut self, address: SocketAddr, config: Arc<ClientConfig>) {
        self.keep("tls", move || {
            tls::try_connect(address, &config, "a.example").map_err(|error| error.to_string())
        });
    }

    fn keep(
        &mut self,
        what: &'static str,
        connect: impl Fn() -> Result<Client, String> + Send + 'static,
    ) {
        self.client(move |count| {
            let mut kept = None;
            while count.goes_on() {
                let mut client = match kept.take().map_or_else(&connect, Ok) {
                    Ok(client) => client,
                    Err(why) => {
                        count.saw(what, Err(format!("connect: {why}")));
                        continue;
                    }
                };
                let answer = asked(&mut client);
                if answer == Ok(false) {
                    kept = Some(client);
                }
                count.saw(what, answer.map(drop));
            }
        });
    }

    /// A connection for each request.
    pub fn fresh(&mut self, address: SocketAddr) {
        self.client(move |count| {
            while count.goes_on() {
                let answer = TcpStream::connect(address)
                    .map_err(|error| error.to_string())
                    .and_then(whole);
                count.saw("fresh", answer);
            }
        });
    }

    pub fn unix(&mut self, path: PathBuf) {
        self.client(move |count| {
            while count.goes_on() {
                let answer = UnixStream::connect(&path)
                    .and_then(|stream| {
                        stream.set_read_timeout(Some(DEADLINE))?;
                        Ok(stream)
                    })
                    .map_err(|error| error.to_string())
                    .and_then(whole);
                count.saw("unix", answer);
            }
        });
    }

    /// HTTP/2 by prior knowledge; a connection is left when it says that it ends.
    pub fn h2(&mut self, address: SocketAddr) {
        self.client(move |count| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                while count.goes_on() {
                    let client = H2::connect(address).await;
                    let mut requests = 0;
                    while count.goes_on() {
                        // What was not sent is not lost.
                        let Ok(mut send) = client.sender().ready().await else {
                            break;
                        };
                        let request = client.request("GET", "/").body(()).expect("a request");
                        let Ok((answer, _)) = send.send_request(request, true) else {
                            break;
                        };
                        requests += 1;
                        match h2_answer(answer).await {
                            Some(answer) => count.saw("h2", answer),
                            None => break,
                        }
                    }
                    // At the end nobody waits for the first one.
                    if requests == 0 && count.goes_on() {
                        count.saw("h2", Err("a connection without an answer".to_owned()));
                    }
                }
            });
        });
    }

    pub fn served(&self) -> usize {
        self.count.served.load(Ordering::Relaxed)
    }

    /// Ends it; nothing must have failed.
    #[track_caller]
    pub fn end(self) -> usize {
        self.count.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client does not panic");
        }
        let failures = self.count.failures.lock().expect("no panic");
        let served = self.count.served.load(Ordering::Relaxed);
        assert!(
            failures.is_empty(),
            "{} of {} failed: {:?}",
            failures.len(),
            served + failures.len(),
            &failures[..failures.len().min(5)]
        );
        served
    }
}

/// `None`: the server has not looked at it, and says so. A client asks again elsewhere (RFC 9113
/// section 6.8): it wrote the request behind the answer to the ping by which the server found out
/// what is on its way.
async fn h2_answer(answer: h2::client::ResponseFuture) -> Option<Result<(), String>> {
    let answered = async {
        let answer = answer.await?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            let _ = body.flow_control().release_capacity(piece.len());
            bytes.extend(piece);
        }
        Ok::<_, h2::Error>((status, bytes))
    };
    match tokio::time::timeout(DEADLINE, answered).await {
        Ok(Ok((status, bytes))) if status == 200 && bytes == b"ok" => Some(Ok(())),
        Ok(Err(error)) if unprocessed(&error) => None,
        Ok(other) => Some(Err(format!("{other:?}"))),
        Err(_) => Some(Err("no answer".to_owned())),
    }
}

fn unprocessed(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

/// One request, up to the end of the connection.
fn whole(mut stream: impl Read + Write) -> Result<(), String> {
    let mut answer = String::new();
    stream
        .write_all(GET_AND_CLOSE.as_bytes())
        .and_then(|()| stream.read_to_string(&mut answer))
        .map_err(|error| error.to_string())?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok") {
        Ok(())
    } else {
        Err(answer)
    }
}

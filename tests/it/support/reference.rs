//! HTTP/1.1 as the RFCs' grammar has it and nothing more, read byte by byte: an independent
//! second opinion on what goes through the proxy. It shares no code and no cleverness with it.

/// What bytes are the beginning of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    Whole(Message),
    /// More must come; with a head if that is whole.
    Partial(Option<Message>),
    /// No reader should go on here.
    Faulty(&'static str),
}

/// A request or a response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Method, target and version, or version, status and reason.
    pub start: [Vec<u8>; 3],
    /// Names as received, values without white space around.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Without chunk framing.
    pub body: Vec<u8>,
    pub chunked: bool,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of all of it.
    pub length: usize,
}

impl Message {
    /// The values of all fields of this name.
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        let named = |(known, _): &&(Vec<u8>, Vec<u8>)| known.eq_ignore_ascii_case(name.as_bytes());
        let fields = self.fields.iter().filter(named);
        fields.map(|(_, value)| value.as_slice()).collect()
    }

    fn lists(&self, name: &str, member: &str) -> bool {
        self.values(name)
            .iter()
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|item| trim(item).eq_ignore_ascii_case(member.as_bytes()))
    }

    /// Whether another message may follow (RFC 9112 section 9.3).
    pub fn is_persistent(&self) -> bool {
        let version = self.start.iter().find(|part| part.starts_with(b"HTTP/1."));
        match version.map(Vec::as_slice) {
            Some(b"HTTP/1.1") => !self.lists("connection", "close"),
            _ => self.lists("connection", "keep-alive") && !self.lists("connection", "close"),
        }
    }
}

type Fault = &'static str;

/// A request at the start of `bytes`; one empty line before it is counted in (RFC 9112 section 2.2).
pub fn request(bytes: &[u8]) -> Reading {
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let reading = read(&bytes[skipped..], |parts| {
        let [method, target, version] = parts;
        if method.is_empty() || !method.iter().all(|&byte| is_token(byte)) {
            return Err("the method is no token");
        }
        if target.is_empty() || !target.iter().all(|&byte| byte > b' ' && byte != 127) {
            return Err("the target has white space or control bytes");
        }
        match version {
            b"HTTP/1.1" | b"HTTP/1.0" => Ok(Ends::Declared),
            _ => Err("the version is another"),
        }
    });
    match reading {
        Reading::Whole(mut message) => {
            message.length += skipped;
            message.head += skipped;
            Reading::Whole(message)
        }
        other => other,
    }
}

/// A response to a request with `method`. One whose end is the connection's is never whole.
pub fn response(bytes: &[u8], method: &str) -> Reading {
    read(bytes, |parts| {
        let [version, status, reason] = parts;
        if !matches!(version, b"HTTP/1.1" | b"HTTP/1.0") {
            return Err("the version is another");
        }
        let digits = status.len() == 3 && status.iter().all(u8::is_ascii_digit);
        if !digits || status[0] == b'0' {
            return Err("the status is no number of three digits");
        }
        if reason.iter().any(|&byte| is_control(byte)) {
            return Err("the reason has a control byte");
        }
        let bare = status[0] == b'1' || matches!(status, b"204" | b"304") || method == "HEAD";
        Ok(if bare { Ends::WithHead } else { Ends::Somehow })
    })
}

/// Where a message ends.
enum Ends {
    WithHead,
    /// No length is no body.
    Declared,
    /// No length is until the connection's end.
    Somehow,
}

fn read(bytes: &[u8], start: impl Fn([&[u8]; 3]) -> Result<Ends, Fault>) -> Reading {
    match try_read(bytes, start) {
        Ok(reading) => reading,
        Err(fault) => Reading::Faulty(fault),
    }
}

fn try_read(
    bytes: &[u8],
    start: impl Fn([&[u8]; 3]) -> Result<Ends, Fault>,
) -> Result<Reading, Fault> {
    let Some((first, mut at)) = line(bytes, 0)? else {
        return Ok(Reading::Partial(None));
    };
    let mut words = first.splitn(3, |&byte| byte == b' ');
    let parts = [(); 3].map(|()| words.next().unwrap_or_default());
    let ends = start(parts)?;
    let Some((fields, end)) = section(bytes, at)? else {
        return Ok(Reading::Partial(None));
    };
    at = end;
    let mut message = Message {
        start: parts.map(<[u8]>::to_vec),
        fields,
        head: at,
        ..Message::default()
    };
    let coding = message.values("transfer-encoding");
    let length = message.values("content-length");
    match (&ends, &coding[..], &length[..]) {
        (Ends::WithHead, ..) | (Ends::Declared, [], []) => {}
        (Ends::Somehow, [], []) => return Ok(Reading::Partial(Some(message))),
        (_, [], [digits]) => {
            let Some(length) = number(digits, 10) else {
                return Err("Content-Length is no number");
            };
            match bytes[at..].get(..length) {
                Some(body) => message.body = body.to_vec(),
                None => return Ok(Reading::Partial(Some(message))),
            }
            at += length;
        }
        (_, [coding], []) if coding.eq_ignore_ascii_case(b"chunked") => {
            if message.start.iter().any(|part| part == b"HTTP/1.0") {
                return Err("Transfer-Encoding in HTTP/1.0");
            }
            message.chunked = true;
            match chunks(bytes, at)? {
                None => return Ok(Reading::Partial(Some(message))),
                Some((body, trailers, end)) => {
                    (message.body, message.trailers, at) = (body, trailers, end);
                }
            }
        }
        _ => return Err("the framing is ambiguous"),
    }
    message.length = at;
    Ok(Reading::Whole(message))
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Chunks and the trailer section from `at`; the position behind them.
fn chunks(bytes: &[u8], mut at: usize) -> Result<Option<(Vec<u8>, Fields, usize)>, Fault> {
    let mut body = Vec::new();
    loop {
        let Some((text, next)) = line(bytes, at)? else {
            return Ok(None);
        };
        let digits = text.split(|&byte| byte == b';').next().unwrap_or_default();
        let Some(size) = number(digits, 16) else {
            return Err("a chunk size is no number");
        };
        if text.iter().any(|&byte| is_control(byte)) {
            return Err("a control byte in a chunk extension");
        }
        at = next;
        if size == 0 {
            let section = section(bytes, at)?;
            return Ok(section.map(|(trailers, end)| (body, trailers, end)));
        }
        let Some(data) = bytes[at..].get(..size) else {
            return Ok(None);
        };
        body.extend(data);
        at += size;
        match &bytes[at..] {
            [b'\r', b'\n', ..] => at += 2,
            [] | [b'\r'] => return Ok(None),
            _ => return Err("no CRLF behind a chunk's data"),
        }
    }
}

/// Field lines from `at` to the empty line; the position behind that.
fn section(bytes: &[u8], mut at: usize) -> Result<Option<(Fields, usize)>, Fault> {
    let mut fields = Vec::new();
    loop {
        let Some((text, next)) = line(bytes, at)? else {
            return Ok(None);
        };
        at = next;
        if text.is_empty() {
            return Ok(Some((fields, at)));
        }
        let Some(colon) = text.iter().position(|&byte| byte == b':') else {
            return Err("a field line has no colon");
        };
        let (name, value) = (&text[..colon], &text[colon + 1..]);
        if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
            return Err("a field name is no token");
        }
        if value.iter().any(|&byte| is_control(byte)) {
            return Err("a field value has a control byte");
        }
        fields.push((name.to_vec(), trim(value).to_vec()));
    }
}

/// The line at `at` without its CRLF, and the position behind that.
fn line(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Fault> {
    for end in at..bytes.len() {
        match bytes[end..] {
            [b'\r', b'\n', ..] => return Ok(Some((&bytes[at..end], end + 2))),
            [b'\r'] => return Ok(None),
            [b'\r' | b'\n', ..] => return Err("CR or LF alone"),
            _ => {}
        }
    }
    Ok(None)
}

fn number(digits: &[u8], radix: u32) -> Option<usize> {
    let text = std::str::from_utf8(digits).ok()?;
    let plain = !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    plain.then(|| usize::from_str_radix(text, radix).ok())?
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_control(byte: u8) -> bool {
    (byte < 32 && byte != 9) || byte == 127
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte));
    let end = value.iter().rposition(|byte| !blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => &value[start..=end],
        _ => &[],
    }
}

/// What is wrong with a request as a proxy's: clients may send more than proxies.
pub fn forwarded_fault(message: &Message, bytes: &[u8]) -> Option<Fault> {
    let [method, target, version] = &message.start;
    let asterisk = target == b"*" && method == b"OPTIONS";
    let hop = [
        "keep-alive",
        "proxy-connection",
        "te",
        "http2-settings",
        "proxy-authorization",
    ];
    let connection = message.values("connection");
    let switch = message.values("upgrade").is_empty() == connection.is_empty()
        && connection.iter().all(|value| value == b"Upgrade");
    let merged = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "x-forwarded-for",
    ];
    let harmless = |(name, _): &(Vec<u8>, Vec<u8>)| {
        let is = |other: &&str| name.eq_ignore_ascii_case(other.as_bytes());
        !name.contains(&b'_') && !merged.iter().any(is)
    };
    let underscore = |(name, _): &(Vec<u8>, Vec<u8>)| name.contains(&b'_');
    match () {
        () if version != b"HTTP/1.1" => Some("another version"),
        () if !target.starts_with(b"/") && !asterisk => Some("no origin-form"),
        () if bytes.starts_with(b"\r\n") => Some("an empty line before it"),
        () if message.values("host").len() != 1 => Some("not one Host"),
        () if hop.iter().any(|name| !message.values(name).is_empty()) => Some("a field of the hop"),
        () if !switch => Some("Connection"),
        () if message.fields.iter().any(underscore) => Some("an underscore in a name"),
        () if !message.trailers.iter().all(harmless) => Some("a trailer"),
        () if message.chunked && !plain_chunks(&bytes[message.head..]) => Some("chunks"),
        () => None,
    }
}

/// Sizes without zeros in front and without extensions; the chunks are known to be well-formed.
fn plain_chunks(mut bytes: &[u8]) -> bool {
    loop {
        let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
            return false;
        };
        let (digits, rest) = (&bytes[..end], &bytes[end + 2..]);
        match number(digits, 16) {
            Some(0) => return digits == b"0",
            Some(size) if digits[0] != b'0' => bytes = &rest[size + 2..],
            _ => return false,
        }
    }
}

/// How `httparse` reads the head of a request that this module found whole: the same length,
/// method, target, number of fields.
#[track_caller]
pub fn agrees_with_httparse(bytes: &[u8], message: &Message) {
    // Queries are bytes here, text there.
    if std::str::from_utf8(&message.start[1]).is_err() {
        return;
    }
    let mut storage = [httparse::EMPTY_HEADER; 256];
    let mut theirs = httparse::Request::new(&mut storage);
    let what = bytes[..message.head].escape_ascii();
    let length = theirs.parse(bytes);
    assert_eq!(
        length,
        Ok(httparse::Status::Complete(message.head)),
        "{what}"
    );
    assert_eq!(
        theirs.method.map(str::as_bytes),
        Some(&*message.start[0]),
        "{what}"
    );
    assert_eq!(
        theirs.path.map(str::as_bytes),
        Some(&*message.start[1]),
        "{what}"
    );
    let names: Vec<_> = theirs
        .headers
        .iter()
        .map(|one| one.name.as_bytes())
        .collect();
    let ours: Vec<_> = message.fields.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(names, ours, "{what}");
}

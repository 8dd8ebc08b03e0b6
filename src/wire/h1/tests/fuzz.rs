//! Inputs near what is sent and what is used to attack, against two other readers: `httparse`,
//! and a literal reading of the grammar that the tests in `tests/it` judge everything by.

use crate::message::data::strip_framing;
use crate::message::{Fields, Known, Length, Method, RequestHead, Version};
use crate::wire::h1::chunked::Chunked;
use crate::wire::h1::framing::{self, Framing};
use crate::wire::h1::head_write::{self, AnswerFraming, Persistence};
use crate::wire::h1::parse;
use crate::wire::h1::tests::parse::LIMITS;

use mutation::{Corpus, WORDS, rounds};
use reference::Reading;

#[path = "../../../../tests/it/support/mutation.rs"]
mod mutation;
#[expect(dead_code, reason = "the tests over real sockets use the rest")]
#[path = "../../../../tests/it/support/reference.rs"]
mod reference;

/// Rounds of a target in a plain test run: a second of an unoptimised build.
const ROUNDS: u64 = 15_000;

type Line = (Vec<u8>, Vec<u8>);

fn lines(fields: &Fields) -> Vec<Line> {
    let owned = fields.iter();
    owned
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect()
}

/// What `httparse` makes of a head: the same where both accept, and never nothing where we do.
fn same_request(bytes: &[u8], head: &RequestHead, length: usize) {
    // Targets are bytes here, text there.
    if std::str::from_utf8(head.target()).is_err() {
        return;
    }
    let mut storage = [httparse::EMPTY_HEADER; 100];
    let mut theirs = httparse::Request::new(&mut storage);
    assert_eq!(theirs.parse(bytes), Ok(httparse::Status::Complete(length)));
    assert_eq!(theirs.method, Some(head.method.as_str()));
    assert_eq!(theirs.path.map(str::as_bytes), Some(head.target()));
    assert_eq!(
        theirs.version,
        Some(u8::from(head.version == Version::Http11))
    );
    let headers = theirs.headers.iter();
    let trim = crate::message::fields::trim;
    let headers = headers.map(|one| (one.name.as_bytes().to_vec(), trim(one.value).to_vec()));
    assert_eq!(lines(&head.fields), headers.collect::<Vec<_>>());
}

/// Whatever we frame, the reference frames the same way by the head alone.
fn same_framing(head: &RequestHead, bytes: &[u8]) {
    let Ok(framing) = framing::of_request(head) else {
        return;
    };
    let message = match reference::request(bytes) {
        Reading::Whole(message) | Reading::Partial(Some(message)) => message,
        other => panic!("only we can frame it: {other:?}"),
    };
    let length = message.values("content-length").first().map(|digits| {
        let digits = std::str::from_utf8(digits).expect("digits");
        digits.parse().expect("a length that we took")
    });
    let expected = match length {
        Some(length) => Framing::Length(length),
        None if message.chunked => Framing::Chunked,
        None => Framing::Length(0),
    };
    assert_eq!(framing, expected);
}

#[test]
fn request_heads_are_read_as_others_read_them() {
    let corpus = Corpus::of("requests");
    for mut round in rounds("request-heads", ROUNDS) {
        let bytes = round.input(&corpus, 1, WORDS);
        match parse::request(&bytes, &LIMITS) {
            Ok(Some((head, length))) => {
                same_request(&bytes, &head, length);
                same_framing(&head, &bytes[..length]);
                let cut = round.random.usize(..length);
                let part = parse::request(&bytes[..cut], &LIMITS);
                assert!(matches!(part, Ok(None)), "cut at {cut}: {part:?}");
                written_is_read_again(&head);
            }
            // Nobody else thinks it whole.
            Ok(None) => {
                let whole = matches!(reference::request(&bytes), Reading::Whole(_));
                assert!(!whole, "the end of the head is not seen");
            }
            Err(_) => {}
        }
    }
}

/// Our own fields of a connection aside, what is written is what was read.
fn written_is_read_again(head: &RequestHead) {
    let Ok(framing) = framing::of_request(head) else {
        return;
    };
    let length = match framing {
        Framing::Length(length) => Length::Exact(length),
        _ => Length::Unknown,
    };
    let mut bytes = Vec::new();
    head_write::request(&mut bytes, head, length, None);
    let parsed = parse::request(&bytes, &LIMITS).expect("what is written is well-formed");
    let (again, end) = parsed.expect("and whole");
    assert_eq!(end, bytes.len());
    assert_eq!(
        (&again.method, again.target()),
        (&head.method, head.outgoing_target())
    );
    assert_eq!(framing::of_request(&again), Ok(framing), "framed as it was");
    let of_connection = |name: &Line| {
        let hop = ["connection", "keep-alive", "proxy-connection", "upgrade"];
        let framing = ["content-length", "transfer-encoding"];
        let is = |other: &&str| name.0.eq_ignore_ascii_case(other.as_bytes());
        hop.iter().chain(&framing).any(is)
    };
    let (mut before, mut after) = (lines(&head.fields), lines(&again.fields));
    before.retain(|line| !of_connection(line));
    after.retain(|line| !of_connection(line));
    assert_eq!(before, after);
}

#[test]
fn answer_heads_are_read_as_others_read_them() {
    let corpus = Corpus::of("responses");
    for mut round in rounds("answer-heads", ROUNDS) {
        let bytes = round.input(&corpus, 1, WORDS);
        let method = [Method::Get, Method::Head][round.random.usize(..2)].clone();
        let literal = reference::response(&bytes, method.as_str());
        let Ok(parsed) = parse::response(&bytes, &LIMITS) else {
            continue;
        };
        let Some((head, length)) = parsed else {
            let whole = matches!(literal, Reading::Whole(_));
            assert!(!whole, "the end of the head is not seen");
            continue;
        };
        let mut storage = [httparse::EMPTY_HEADER; 100];
        let mut theirs = httparse::Response::new(&mut storage);
        assert_eq!(theirs.parse(&bytes), Ok(httparse::Status::Complete(length)));
        assert_eq!(theirs.code, Some(head.status));
        let trim = crate::message::fields::trim;
        let headers = theirs.headers.iter();
        let headers = headers.map(|one| (one.name.as_bytes().to_vec(), trim(one.value).to_vec()));
        assert_eq!(lines(&head.fields), headers.collect::<Vec<_>>());
        let cut = round.random.usize(..length);
        let part = parse::response(&bytes[..cut], &LIMITS);
        assert!(matches!(part, Ok(None)), "cut at {cut}: {part:?}");
        let framing = (!head.is_interim()).then(|| framing::of_response(&head, &method));
        if let Reading::Faulty(fault) = literal {
            // In the body, or in what frames it.
            let refused = matches!(framing, Some(Err(_)));
            let chunked = head.fields.contains(Known::TransferEncoding);
            assert!(refused || chunked, "only we accept it: {fault}");
        }
        if let Some(Ok((framing, _))) = framing {
            let bare = method == Method::Head || matches!(head.status, 204 | 304);
            let answer = match framing {
                _ if bare => AnswerFraming::HeadOnly,
                Framing::Length(length) => AnswerFraming::Length(length),
                Framing::Chunked | Framing::UntilClose => AnswerFraming::Chunked,
            };
            let mut written = Vec::new();
            head_write::answer(&mut written, &head, answer, Persistence::Silent);
            let again = parse::response(&written, &LIMITS).expect("what is written is well-formed");
            let (again, end) = again.expect("and whole");
            assert_eq!((end, again.status), (written.len(), head.status));
            assert_eq!(again.reason(), head.reason());
            let framed = framing::of_response(&again, &method).map(|(framing, _)| framing);
            let expected = match framing {
                Framing::UntilClose => Framing::Chunked,
                other => other,
            };
            assert_eq!(framed, Ok(expected), "framed as it was");
        }
    }
}

/// How a chunked body ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// At this byte, with these trailers.
    Whole(usize, Vec<Line>),
    More,
    Refused,
}

/// Payload and end of a body that comes in these pieces.
fn decode(body: &[u8], cuts: &[usize]) -> (Vec<u8>, End) {
    let mut decoder = Chunked::default();
    let (mut payload, mut taken) = (Vec::new(), 0);
    for &given in cuts.iter().chain(&[body.len()]) {
        loop {
            let Ok(pass) = decoder.pass(&body[taken..given]) else {
                return (payload, End::Refused);
            };
            let mut piece = body[taken..taken + pass.framed].to_vec();
            let length = strip_framing(&mut piece, pass.from);
            assert_eq!(
                length, pass.payload,
                "the payload is counted as it is stripped"
            );
            payload.extend_from_slice(&piece[..length]);
            taken += pass.framed;
            if let Some(last) = pass.last {
                return match parse::trailers(&body[taken + last..given], &LIMITS) {
                    Err(_) => (payload, End::Refused),
                    Ok(None) if given < body.len() => break,
                    Ok(None) => (payload, End::More),
                    Ok(Some((trailers, length))) => {
                        (payload, End::Whole(taken + last + length, lines(&trailers)))
                    }
                };
            }
            if pass.framed == 0 {
                break;
            }
        }
    }
    (payload, End::More)
}

#[test]
fn chunks_are_read_as_others_read_them_wherever_they_are_cut() {
    let corpus = Corpus::of("chunked");
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for mut round in rounds("chunks", ROUNDS / 3) {
        let body = round.input(&corpus, 1, WORDS);
        let (payload, end) = decode(&body, &[]);
        let literal = reference::request(&[head, &*body].concat());
        match (&end, &literal) {
            (End::Whole(length, trailers), Reading::Whole(message)) => {
                assert_eq!(*length, message.length - head.len());
                assert_eq!((&payload, trailers), (&message.body, &message.trailers));
            }
            (End::Whole(..), _) => panic!("only we think it whole: {literal:?}"),
            (End::More, Reading::Whole(_)) => panic!("its end is not seen"),
            (End::More | End::Refused, _) => {}
        }
        let every: Vec<usize> = (1..body.len()).collect();
        let mut cuts: Vec<Vec<usize>> = vec![every.clone()];
        // Each by itself where that is quick, some of them elsewhere.
        let single = every
            .iter()
            .copied()
            .filter(|_| body.len() < 100 || round.random.u8(..) < 8);
        cuts.extend(single.map(|cut| vec![cut]));
        cuts.push(
            every
                .into_iter()
                .filter(|_| round.random.u8(..) < 40)
                .collect(),
        );
        for cuts in cuts {
            let (pieces, ended) = decode(&body, &cuts);
            assert_eq!(ended, end, "cut at {cuts:?}");
            // What came before a fault may go on or not; nothing else may.
            match end {
                End::Refused => {
                    let short = pieces.len().min(payload.len());
                    assert_eq!(pieces[..short], payload[..short], "cut at {cuts:?}");
                }
                _ => assert_eq!(pieces, payload, "cut at {cuts:?}"),
            }
        }
    }
}

//! One GET over HTTP/1.1, as far as a probe needs it: the status, and whether the connection can serve another.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest head of an answer; servers commonly refuse to send more than 8 KiB.
const LONGEST_HEAD: usize = 16 * 1024;
/// The longest body that is read for the sake of the connection; `/readyz` has some hundred bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whether its end was found and nobody wants to close.
    pub(super) reusable: bool,
}

/// Asks for `path`. Only the head has to be right; a body whose length is not told before it costs the connection.
///
/// # Errors
/// When there is no answer, or none that is HTTP.
pub(super) async fn get(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    host: &str,
    path: &str,
) -> io::Result<Answer> {
    let version = env!("CARGO_PKG_VERSION");
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: snigate/{version}\r\naccept: */*\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut received = Vec::new();
    loop {
        let end = read_head(stream, &mut received).await?;
        let head = Head::parse(&received[..end])?;
        received.drain(..end);
        // 1xx only announces the answer (RFC 9110, 15.2); 101 would be one to a question that was not asked.
        if !(100..200).contains(&head.status) {
            let complete = read_body(stream, received.len(), head.length).await;
            return Ok(Answer { status: head.status, reusable: complete && head.persistent });
        }
    }
}

/// Reads until `received` has a whole head, and returns where that ends.
async fn read_head(stream: &mut (impl AsyncRead + Unpin), received: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(end + 4);
        }
        if received.len() > LONGEST_HEAD {
            return Err(not_http("its head does not end"));
        }
        if stream.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Reads what is left of the body. Returns whether the next byte will be that of another answer.
async fn read_body(stream: &mut (impl AsyncRead + Unpin), received: usize, length: Option<usize>) -> bool {
    let Some(rest) = length.and_then(|length| length.checked_sub(received)) else { return false };
    if rest > LONGEST_BODY {
        return false;
    }
    let mut rest = vec![0; rest];
    stream.read_exact(&mut rest).await.is_ok()
}

struct Head {
    status: u16,
    /// Of the body; `None` if only its end shows that.
    length: Option<usize>,
    persistent: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| not_http("its head is no text"))?;
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let (version, rest) = status_line.split_once(' ').ok_or_else(|| not_http("it has no status"))?;
        let status = rest.split(' ').next().filter(|digits| digits.len() == 3).and_then(|digits| digits.parse().ok());
        let status = status.filter(|_| version.starts_with("HTTP/1.")).ok_or_else(|| not_http("it has no status"))?;
        let mut head = Self { status, length: None, persistent: version == "HTTP/1.1" };
        if matches!(status, 204 | 304) {
            head.length = Some(0);
        }
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or_else(|| not_http("it has a header without a name"))?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let length = value.parse().map_err(|_| not_http("its length is no number"))?;
                head.length.get_or_insert(length);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.persistent = false; // its end is not looked for
            } else if name.eq_ignore_ascii_case("connection") {
                let mut options = value.split(',').map(str::trim);
                head.persistent &= !options.any(|option| option.eq_ignore_ascii_case("close"));
            }
        }
        Ok(head)
    }
}

fn not_http(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer is not HTTP/1.1: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{duplex, split};

    /// What comes of `answer`, after which the server closes.
    async fn answer(text: &[u8]) -> Result<(u16, bool), String> {
        let (mut here, there) = duplex(256 * 1024);
        let (_reads, mut writes) = split(there);
        writes.write_all(text).await.unwrap();
        writes.shutdown().await.unwrap();
        get(&mut here, "a.test", "/readyz")
            .await
            .map(|answer| (answer.status, answer.reusable))
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_request_is_what_servers_expect() {
        let (mut here, mut there) = duplex(1024);
        let asked = async {
            let mut request = vec![0; 1024];
            let length = there.read(&mut request).await.unwrap();
            there.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        };
        let (answer, request) = tokio::join!(get(&mut here, "a.test", "/readyz?verbose"), asked);
        assert_eq!(answer.unwrap(), Answer { status: 204, reusable: true });
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "GET /readyz?verbose HTTP/1.1\r\nhost: a.test\r\nuser-agent: snigate/{version}\r\naccept: */*\r\n\r\n"
        );
        assert_eq!(request, expected);
    }

    #[tokio::test]
    async fn answers_are_read_and_their_connections_kept_where_that_is_sure() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, true)),
            ("HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", (200, true)),
            ("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nnot", (500, true)),
            ("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", (200, true)),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", (304, true)),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", (200, false)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: x, Close\r\n\r\nok", (200, false)),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", (200, false)),
            ("HTTP/1.1 403 Forbidden\r\n\r\nuntil the end", (403, false)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", (200, false)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nok", (200, false)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", (200, false)),
        ] {
            assert_eq!(answer(text.as_bytes()).await, Ok(expected), "{text:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_says_why() {
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(LONGEST_HEAD));
        for (text, told) in [
            (&b""[..], "unexpected end of file"),
            (b"HTTP/1.1 200 OK\r\ncontent", "unexpected end of file"),
            (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is not HTTP/1.1: it has no status"),
            (b"HTTP/2 200\r\n\r\n", "the answer is not HTTP/1.1: it has no status"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", "the answer is not HTTP/1.1: it has no status"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "the answer is not HTTP/1.1: its length is no number"),
            (b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "the answer is not HTTP/1.1: it has a header without a name"),
            (b"\xff\xfe\r\n\r\n", "the answer is not HTTP/1.1: its head is no text"),
            (endless.as_bytes(), "the answer is not HTTP/1.1: its head does not end"),
        ] {
            assert_eq!(answer(text).await, Err(told.to_owned()), "{}", text.escape_ascii());
        }
    }
}

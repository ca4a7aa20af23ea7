//! As much of HTTP/1.1 as it takes to ask a service of this machine and to read its answer.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of the longest answer.
const LONGEST: usize = 1 << 20;

/// A connection to a port of this machine, opened when it is needed.
pub(super) struct Connection {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    /// To this port.
    pub(super) fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    /// Asks for a path and reads all of the answer.
    ///
    /// # Errors
    /// There is none, or the service says that it cannot.
    pub(super) fn get(&mut self, path: &str) -> Result<()> {
        // What went wrong on a connection leaves it in an unknown state: the next request takes another.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        // In one piece: each write would be a packet of its own.
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", self.port);
        stream.get_mut().write_all(request.as_bytes())?;
        if read_answer(&mut stream)? {
            self.stream = Some(stream);
        }
        Ok(())
    }

    fn open(&self) -> Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(BufReader::new(stream))
    }
}

/// Reads an answer; whether the connection can be used once more.
fn read_answer(stream: &mut impl BufRead) -> Result<bool> {
    let status = read_line(stream)?;
    if !status.starts_with("HTTP/1.1 200 ") {
        bail!("the service says {status:?}");
    }
    let (mut length, mut stays) = (None, true);
    loop {
        let line = read_line(stream)?.to_ascii_lowercase();
        match line.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = Some(value.trim().parse::<usize>()?),
            Some(("connection", value)) => stays = value.trim() != "close",
            Some(_) => {}
        }
    }
    let length = length.context("an answer does not say how long it is")?;
    if length > LONGEST {
        bail!("an answer is {length} bytes long");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(stays)
}

fn read_line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    stream.take(LONGEST as u64).read_line(&mut line)?;
    if line.is_empty() {
        bail!("the service closed the connection");
    }
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::read_answer;

    fn read(mut answer: &[u8]) -> Option<(bool, usize)> {
        let stays = read_answer(&mut answer).ok()?;
        Some((stays, answer.len()))
    }

    #[test]
    fn an_answer_is_read_to_its_end_and_not_beyond() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP";
        assert_eq!(read(answer), Some((true, 4)));
        let last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(read(last), Some((false, 0)));
    }

    #[test]
    fn what_is_no_whole_and_good_answer_is_an_error() {
        assert_eq!(read(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"), None);
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"), None);
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(read(b""), None);
    }
}

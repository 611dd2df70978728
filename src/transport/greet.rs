//! The greeting that opens every connection, and its answer, over a [`Stream`].

use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stream::Stream;
use crate::wire::greeting::MAX_BODY_BYTES;
use crate::wire::greeting::{self, Greeting, GreetingError, HEADER_BYTES, Header, Kind};

/// Says what the connection is for and waits for the answer, `timeout` in all. What comes back is
/// the other side's [`Kind::Welcome`].
pub async fn greet(
    stream: &mut Stream,
    kind: Kind,
    body: &[u8],
    timeout: Duration,
) -> Result<Greeting, GreetError> {
    let bytes = greeting::encode(kind, body)?;
    let exchange = async {
        stream.write_all(&bytes).await?;
        read_greeting(stream).await
    };
    let answer = tokio::time::timeout(timeout, exchange)
        .await
        .map_err(|_| GreetError::Timeout(timeout))??;
    match answer.kind {
        Kind::Welcome => Ok(answer),
        Kind::Refused => Err(GreetError::Refused(readable(&answer.body))),
        kind => Err(GreetError::NotAnAnswer(kind)),
    }
}

/// Answers a greeting: the connection is taken.
pub async fn welcome(stream: &mut Stream, body: &[u8]) -> io::Result<()> {
    let bytes = greeting::encode(Kind::Welcome, body)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    stream.write_all(&bytes).await
}

/// Answers a greeting: the connection is not taken, and is closed. A reason of more than
/// [`MAX_BODY_BYTES`] is cut.
///
/// Waits up to a second for the other side to close first, so that the reason is not lost: spawn
/// it where something else waits.
pub async fn refuse(mut stream: Stream, reason: &str) {
    let reason = cut(reason, MAX_BODY_BYTES);
    let Ok(bytes) = greeting::encode(Kind::Refused, reason.as_bytes()) else {
        return;
    };
    let farewell = async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await?;
        // Closing with bytes unread resets the connection, and a reset may overtake the answer.
        let mut unread = [0; 256];
        for _ in 0..LINGER_READS {
            if stream.read(&mut unread).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, farewell).await {
        tracing::debug!(%error, reason, "a refusal may not have arrived");
    }
}

/// Why no welcome came.
#[derive(Debug, Error)]
pub enum GreetError {
    /// The other side does not want this connection, for this reason.
    #[error("refused: {0}")]
    Refused(String),
    /// The two sides speak different wire versions.
    #[error("wire version {theirs} there, {ours} here")]
    Version {
        /// This side's.
        ours: u16,
        /// The other side's.
        theirs: u16,
    },
    /// What came is no greeting, or the one to send is too long.
    #[error(transparent)]
    Malformed(GreetingError),
    /// The other side greeted back instead of answering.
    #[error("answered with {0:?}, which is no answer")]
    NotAnAnswer(Kind),
    /// The connection broke.
    #[error("connection lost before the answer: {0}")]
    Io(#[from] io::Error),
    /// No answer came in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
}

impl From<GreetingError> for GreetError {
    fn from(error: GreetingError) -> Self {
        match error {
            GreetingError::Version { ours, theirs } => GreetError::Version { ours, theirs },
            error => GreetError::Malformed(error),
        }
    }
}

/// Reads one greeting and not a byte more. Takes memory for the body only once its length is known
/// to be within bounds; has no timeout of its own.
pub(super) async fn read_greeting(stream: &mut Stream) -> Result<Greeting, GreetError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let header = Header::decode(&header)?;
    let mut body = vec![0; header.body_len()];
    stream.read_exact(&mut body).await?;
    Ok(header.finish(body)?)
}

/// How long a refused connection is kept for the other side to read the answer, and how much it
/// may still send meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 64;

/// A reason from the other side, fit for an error and a log line.
fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// The longest beginning of at most `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn pair() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (Stream::new(near), Stream::new(far))
    }

    #[tokio::test]
    async fn a_greeting_is_answered_with_a_welcome() {
        let (mut near, mut far) = pair().await;
        let dialler = greet(&mut near, Kind::Lane, b"lane 3", PATIENCE);
        let accepter = async {
            let greeting = read_greeting(&mut far).await.unwrap();
            welcome(&mut far, b"come in").await.unwrap();
            greeting
        };
        let (answer, greeting) = tokio::join!(dialler, accepter);
        assert_eq!(greeting.kind, Kind::Lane);
        assert_eq!(greeting.body, b"lane 3");
        assert_eq!(answer.unwrap().body, b"come in");
    }

    #[tokio::test]
    async fn a_refusal_arrives_with_its_reason_though_bytes_were_left_unread() {
        let (mut near, far) = pair().await;
        let reason = "wrong\nrun ".to_string() + &"ü".repeat(MAX_BODY_BYTES);
        let dialler = async {
            let error = greet(&mut near, Kind::Lane, &[7; 4000], PATIENCE).await;
            drop(near);
            error.unwrap_err()
        };
        let (error, ()) = tokio::join!(dialler, refuse(far, &reason));
        let GreetError::Refused(reason) = error else {
            panic!("{error}")
        };
        assert!(reason.starts_with("wrong run üü"));
        assert!(reason.ends_with('ü'));
    }

    #[tokio::test]
    async fn a_silent_other_side_is_a_timeout() {
        let (mut near, _far) = pair().await;
        let error = greet(&mut near, Kind::Control, b"", Duration::from_millis(20)).await;
        assert!(matches!(error, Err(GreetError::Timeout(_))));
    }

    #[tokio::test]
    async fn another_version_in_the_answer_is_named_beside_ours() {
        let (mut near, mut far) = pair().await;
        let mut bytes = greeting::encode(Kind::Welcome, b"").unwrap();
        bytes[4] = 9;
        far.write_all(&bytes).await.unwrap();
        let error = greet(&mut near, Kind::Control, b"", PATIENCE)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "wire version 9 there, 1 here");
    }

    #[tokio::test]
    async fn a_closed_connection_and_another_protocol_are_errors() {
        let (mut near, far) = pair().await;
        drop(far);
        let error = greet(&mut near, Kind::Control, b"", PATIENCE).await;
        assert!(matches!(error, Err(GreetError::Io(_))));

        let (mut near, mut far) = pair().await;
        far.write_all(b"220 mail.example ESMTP ready\r\n")
            .await
            .unwrap();
        let error = greet(&mut near, Kind::Control, b"", PATIENCE).await;
        assert!(matches!(
            error,
            Err(GreetError::Malformed(GreetingError::Magic))
        ));
    }
}

//! Messages on a QUIC stream, one frame each.

use std::marker::PhantomData;

use pnsbox_proto::frame::{self, FrameError, HEADER_BYTES};
use quinn::{RecvStream, SendStream, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FramedError {
    /// The stream or its connection ended.
    #[error("the connection was lost")]
    Read(#[from] std::io::Error),
    /// The stream or its connection ended.
    #[error("the connection was lost")]
    Write(#[from] WriteError),
    /// More than the other side may say yet.
    #[error("a message of {length} bytes is longer than the {longest} that are taken here")]
    TooLong {
        /// Its length.
        length: usize,
        /// What is taken.
        longest: usize,
    },
    /// The other side broke the protocol, or a message of ours is too long.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Sends messages of type `M`.
#[derive(Debug)]
pub struct FramedSender<M> {
    stream: SendStream,
    message: PhantomData<fn(M)>,
}

impl<M: Serialize> FramedSender<M> {
    /// Takes over the stream.
    pub fn new(stream: SendStream) -> Self {
        Self {
            stream,
            message: PhantomData,
        }
    }

    /// Sends one message; returns the bytes that it took.
    ///
    /// Not safe to cancel: a frame may be cut short, and the stream must then be given up.
    pub async fn send(&mut self, message: &M) -> Result<usize, FramedError> {
        let bytes = frame::encode(message)?;
        self.stream.write_all(&bytes).await?;
        Ok(bytes.len())
    }
}

/// Receives messages of type `M`; of a QUIC stream, or of bytes in a test.
#[derive(Debug)]
pub struct FramedReceiver<M, S = RecvStream> {
    stream: S,
    message: PhantomData<fn() -> M>,
}

impl<M: DeserializeOwned, S: AsyncRead + Unpin> FramedReceiver<M, S> {
    /// Takes over the stream.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            message: PhantomData,
        }
    }

    /// Waits for the next message.
    ///
    /// Not safe to cancel: give it a task of its own.
    pub async fn receive(&mut self) -> Result<M, FramedError> {
        self.receive_within(|| frame::MAX_FRAME_BYTES).await
    }

    /// Waits for the next message, which may have as many bytes as `longest` says when its length is there.
    ///
    /// Not safe to cancel: give it a task of its own.
    pub async fn receive_within(&mut self, longest: impl Fn() -> usize) -> Result<M, FramedError> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).await?;
        let length = frame::payload_length(header)?;
        if length > longest() {
            return Err(FramedError::TooLong {
                length,
                longest: longest(),
            });
        }
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok(frame::decode(&payload)?)
    }
}

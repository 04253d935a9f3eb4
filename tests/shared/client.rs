//! Clients on sockets.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// An answer, read whole.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    pub(super) fn is_replayed(&self) -> bool {
        self.headers.get("idempotency-replayed").is_some_and(|value| value == "true")
    }

    /// What a problem document says of the kind.
    pub(super) fn kind(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.body).ok()?;
        assert_eq!(self.headers["content-type"], "application/problem+json", "{text}");
        let (_, rest) = text.split_once(r#""kind":""#)?;
        Some(rest.split_once('"')?.0)
    }

    pub(super) fn is_in_flight(&self) -> bool {
        let is = self.status == 409;
        if is {
            assert_eq!(self.kind(), Some("idempotency_in_flight"));
            let after: u64 = self.headers["retry-after"].to_str().unwrap().parse().unwrap();
            assert!(after >= 1);
        }
        is
    }

    pub(super) fn is_unknown(&self) -> bool {
        let is = self.status == 500;
        if is {
            assert_eq!(self.kind(), Some("idempotency_outcome_unknown"), "{self:?}");
        }
        is
    }

    pub(super) fn is_executed(&self) -> bool {
        self.status == 201 && !self.is_replayed()
    }

    /// What a replay has from the first answer.
    pub(super) fn kept(&self) -> (StatusCode, &[u8], [Option<&[u8]>; 2]) {
        let header = |name| self.headers.get(name).map(|value| value.as_bytes());
        (self.status, &self.body, [header("content-type"), header("location")])
    }
}

/// One connection of either version.
pub(super) enum Connection {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Connection {
    pub(super) async fn one(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        // Ends with an error when the server is killed.
        tokio::spawn(async { drop(connection.await) });
        Self::One(sender)
    }

    pub(super) async fn two(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async { drop(connection.await) });
        Self::Two(sender)
    }

    /// Another caller on it, if it takes several at a time.
    pub(super) fn share(&self) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Two(sender) => Some(Self::Two(sender.clone())),
        }
    }

    pub(super) async fn try_post(&mut self, key: &str) -> hyper::Result<Answer> {
        let (uri, host) = match self {
            Self::One(_) => ("/payments", Some("localhost")),
            Self::Two(_) => ("http://localhost/payments", None),
        };
        let mut request = Request::post(uri).header("idempotency-key", key);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let request = request.body(Body::from("10 EUR")).unwrap();
        let response = match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    pub(super) async fn post(&mut self, key: &str) -> Answer {
        self.try_post(key).await.unwrap()
    }

    /// Asks again as long as it is told to come back. The last answer, and how often it was told so.
    pub(super) async fn insist(&mut self, key: &str) -> (Answer, usize) {
        let since = Instant::now();
        for told in 0.. {
            let answer = self.post(key).await;
            let come_back = answer.is_in_flight()
                || answer.status == 503 && answer.kind() == Some("store_unavailable");
            if !come_back {
                return (answer, told);
            }
            assert!(since.elapsed() < Duration::from_secs(60), "{answer:?}");
            sleep(Duration::from_millis(100)).await;
        }
        unreachable!()
    }
}

pub(super) async fn post(port: u16, key: &str) -> Answer {
    Connection::one(port).await.post(key).await
}

//! Stands between a client and a server and spoils what passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

const PASS: u8 = 0;
const HANG: u8 = 1;
const LOSE: u8 = 2;

#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    mode: Arc<AtomicU8>,
    delay: Arc<AtomicU64>,
    /// How often all connections were swallowed.
    swallowed: Arc<AtomicU64>,
    /// How often all connections were cut.
    cut: Arc<AtomicU64>,
    opened: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            mode: Arc::default(),
            delay: Arc::default(),
            swallowed: Arc::default(),
            cut: Arc::default(),
            opened: Arc::default(),
        };
        let mine = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mine = mine.clone();
                mine.opened.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", port)).await;
                    if let Ok(server) = server {
                        mine.serve(client, server).await;
                    }
                });
            }
        });
        proxy
    }

    pub fn pass(&self) {
        self.delay.store(0, Ordering::SeqCst);
        self.mode.store(PASS, Ordering::SeqCst);
    }

    /// Nothing gets through, in either direction; connections stay open.
    pub fn hang(&self) {
        self.mode.store(HANG, Ordering::SeqCst);
    }

    /// Requests get through; instead of the answer the connection is closed.
    pub fn lose_answers(&self) {
        self.mode.store(LOSE, Ordering::SeqCst);
    }

    /// Nothing comes over those that are open now any more, and nobody is told; new ones are served.
    pub fn swallow(&self) {
        self.swallowed.fetch_add(1, Ordering::SeqCst);
    }

    /// Those that are open now are closed; new ones are served.
    pub fn cut(&self) {
        self.cut.fetch_add(1, Ordering::SeqCst);
    }

    /// How many connections there have been.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    async fn unless_swallowed(&self, opened: u64) {
        if self.swallowed.load(Ordering::SeqCst) != opened {
            std::future::pending().await
        }
    }

    /// Each answer comes that much later.
    pub fn delay(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    async fn serve(&self, client: TcpStream, server: TcpStream) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let (up, down) = (self.clone(), self.clone());
        let opened = self.swallowed.load(Ordering::SeqCst);
        let before = self.cut.load(Ordering::SeqCst);
        let cut = async {
            while self.cut.load(Ordering::SeqCst) == before {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let forward = async move {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(n @ 1..) = from_client.read(&mut bytes).await {
                up.while_hung().await;
                up.unless_swallowed(opened).await;
                if to_server.write_all(&bytes[..n]).await.is_err() {
                    return;
                }
            }
        };
        let back = async move {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(n @ 1..) = from_server.read(&mut bytes).await {
                sleep(Duration::from_millis(down.delay.load(Ordering::SeqCst))).await;
                down.while_hung().await;
                down.unless_swallowed(opened).await;
                if down.mode.load(Ordering::SeqCst) == LOSE {
                    return;
                }
                if to_client.write_all(&bytes[..n]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = forward => {}
            () = back => {}
            () = cut => {}
        }
    }

    async fn while_hung(&self) {
        let hung = async {
            while self.mode.load(Ordering::SeqCst) == HANG {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = timeout(Duration::from_secs(60), hung).await;
    }
}

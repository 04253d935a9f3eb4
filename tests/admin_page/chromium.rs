//! A headless Chromium, driven over its DevTools protocol.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::BASE64;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

const NAMES: [&str; 6] = [
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("BUTTRESS_CHROMIUM") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    NAMES
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)))
        .find(|file| file.is_file())
        .expect(
            "no Chromium here: run `bash tests/run.sh --install`, or name one in BUTTRESS_CHROMIUM",
        )
}

/// Chromium's sandbox does not work for root, which the user of a container often is.
fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

/// A browser with one page, which ends with this.
pub struct Page {
    browser: Child,
    profile: PathBuf,
    socket: tokio::sync::Mutex<SplitSink<Socket, Message>>,
    session: String,
    next: AtomicU64,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    complaints: Vec<String>,
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.browser.kill();
        let _ = self.browser.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

impl Page {
    pub async fn start(name: &str) -> Self {
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("chromium-{name}-{}", std::process::id()));
        let mut command = Command::new(program());
        command.args([
            "--headless=new",
            "--remote-debugging-port=0",
            "--no-first-run",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-extensions",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            "--lang=en-US",
        ]);
        if is_root() {
            command.arg("--no-sandbox");
        }
        command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        let mut browser = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = browser.stderr.take().unwrap();
        let (say, hear) = oneshot::channel();
        // The thread reads on, so that the pipe never fills.
        std::thread::spawn(move || {
            let (mut say, mut said) = (Some(say), vec![]);
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(url) = line.strip_prefix("DevTools listening on ") {
                    let _ = say.take().map(|say| say.send(Ok(url.to_owned())));
                } else if say.is_some() {
                    said.push(line);
                }
            }
            let _ = say.map(|say| say.send(Err(said.join("\n"))));
        });
        let url = timeout(Duration::from_secs(60), hear).await.expect("Chromium starts").unwrap();
        let url = url.unwrap_or_else(|said| panic!("Chromium ended: {said}"));
        let (socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
        let (sink, mut stream) = socket.split();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let hears = heard.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = stream.next().await {
                let Ok(message) = serde_json::from_slice::<Value>(&message.into_data()) else {
                    continue;
                };
                hears.lock().unwrap().take(message);
            }
        });
        let mut page = Self {
            browser,
            profile,
            socket: tokio::sync::Mutex::new(sink),
            session: String::new(),
            next: AtomicU64::new(1),
            heard,
        };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = page.call("Target.attachToTarget", attach).await;
        page.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        page.size(1440, 1000, false).await;
        page
    }

    pub async fn call(&self, method: &str, params: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let (answer, answered) = oneshot::channel();
        self.heard.lock().unwrap().waiting.insert(id, answer);
        self.socket.lock().await.send(Message::text(message.to_string())).await.unwrap();
        let answer = timeout(Duration::from_secs(60), answered).await.expect(method).unwrap();
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    pub async fn open(&self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        self.until("document.readyState === 'complete'").await;
    }

    /// The value of an expression in the page.
    pub async fn eval(&self, script: &str) -> Value {
        let params = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{script}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub async fn until(&self, script: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        // A page that is just being replaced has no value to give.
        while self.eval(script).await != json!(true) {
            if Instant::now() > end {
                let text = self.eval("document.body.innerText").await;
                panic!(
                    "never true: {script}\nthe page says: {}",
                    text.as_str().unwrap_or_default()
                );
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn size(&self, width: u32, height: u32, mobile: bool) {
        let scale = if mobile { 2 } else { 1 };
        let params =
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", params).await;
    }

    pub async fn scheme(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// One key, pressed and let go: `Tab`, `Enter`, ` ` or `Escape`.
    pub async fn key(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            " " => (32, " "),
            other => panic!("no such key: {other}"),
        };
        let name = if key == " " { "Space" } else { key };
        let mut params = json!({"type": "keyDown", "key": key, "code": name, "windowsVirtualKeyCode": code, "text": text});
        self.call("Input.dispatchKeyEvent", params.clone()).await;
        params["type"] = json!("keyUp");
        params["text"] = json!("");
        self.call("Input.dispatchKeyEvent", params).await;
    }

    /// Types into what has the focus.
    pub async fn write(&self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    pub async fn screenshot(&self, name: &str) -> PathBuf {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let image = BASE64.decode(shot["data"].as_str().unwrap().as_bytes()).unwrap();
        assert!(
            image.starts_with(b"\x89PNG") && image.len() > 10_000,
            "{name}: {} bytes",
            image.len()
        );
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(name);
        std::fs::write(&file, image).unwrap();
        file
    }

    /// What the console has said since the last time: errors, exceptions, violations of the policy.
    pub fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap().complaints)
    }
}

impl Heard {
    fn take(&mut self, message: Value) {
        if let Some(waiting) = message["id"].as_u64().and_then(|id| self.waiting.remove(&id)) {
            let _ = waiting.send(message);
            return;
        }
        let params = &message["params"];
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints.push(format!("exception: {}", params["exceptionDetails"]));
            }
            Some("Runtime.consoleAPICalled") => {
                self.complaints.push(format!("console.{}: {}", params["type"], params["args"]));
            }
            Some("Log.entryAdded") => {
                let entry = &params["entry"];
                self.complaints
                    .push(format!("{}: {} {}", entry["source"], entry["text"], entry["url"]));
            }
            _ => {}
        }
    }
}

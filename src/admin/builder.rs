use std::fmt;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex as StdMutex, OnceLock};
use std::time::Duration;

use serde_json::Value;

use super::gate::{Token, name_of};
use super::hub::Hub;
use super::redact::plain;
use super::sampler;
use super::spark::History;
use crate::control::Registry;
use crate::error::ConfigError;
use crate::sync::Mutex;

type Make = Arc<dyn Fn() -> Value + Send + Sync>;

/// The status page, its data and commands as one service: see the [module](super).
///
/// ```
/// use buttress::admin::Admin;
/// use buttress::control::Registry;
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let admin = Admin::builder(&Registry::new()).build().unwrap();
/// let request = http::Request::get("/status.json").body(String::new()).unwrap();
/// let answer = admin.oneshot(request).await.unwrap();
/// assert_eq!(answer.headers()["cache-control"], "no-store");
/// # }
/// ```
#[derive(Clone)]
pub struct Admin {
    pub(super) shared: Arc<Shared>,
    /// On a listener of its own that is bound to a loopback address.
    pub(super) loopback: bool,
}

pub(super) struct Shared {
    pub(super) registry: Registry,
    pub(super) source: Make,
    pub(super) config: Option<Make>,
    pub(super) hidden: Vec<String>,
    pub(super) token: Option<Token>,
    pub(super) origins: Vec<String>,
    pub(super) hosts: Vec<String>,
    pub(super) prefix: String,
    pub(super) remote: bool,
    pub(super) interval: Duration,
    pub(super) max_viewers: usize,
    pub(super) max_body: usize,
    pub(super) body_timeout: Duration,
    /// As it was told first.
    pub(super) instance: OnceLock<Value>,
    pub(super) hub: Hub,
    pub(super) history: Mutex<History>,
    /// Dropped: the thread ends.
    _running: StdMutex<Sender<()>>,
}

impl Admin {
    /// For what is in `registry`.
    ///
    /// ```
    /// use buttress::{admin::Admin, control::Registry};
    /// let admin = Admin::builder(&Registry::new()).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(registry: &Registry) -> AdminBuilder {
        AdminBuilder {
            registry: registry.clone(),
            source: None,
            config: None,
            hidden: Vec::new(),
            token: None,
            origins: Vec::new(),
            hosts: Vec::new(),
            prefix: String::new(),
            remote: false,
            interval: Duration::from_secs(1),
            max_viewers: 1000,
            max_body: 64 * 1024,
            body_timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("commands", &self.shared.token.is_some())
            .field("viewers", &self.shared.hub.viewers())
            .finish_non_exhaustive()
    }
}

/// Settings of an [`Admin`].
///
/// ```
/// use buttress::{admin::Admin, control::Registry};
/// let error = Admin::builder(&Registry::new()).token("secret").build().unwrap_err();
/// assert_eq!(error.to_string(), "invalid token: 6 characters, expected at least 16 characters");
/// ```
#[must_use = "call `build`"]
pub struct AdminBuilder {
    registry: Registry,
    source: Option<Make>,
    config: Option<Make>,
    hidden: Vec<String>,
    token: Option<String>,
    origins: Vec<String>,
    hosts: Vec<String>,
    prefix: String,
    remote: bool,
    interval: Duration,
    max_viewers: usize,
    max_body: usize,
    body_timeout: Duration,
}

impl AdminBuilder {
    /// Allows commands to who sends this as `Authorization: Bearer`. At least 16 visible ASCII characters; take
    /// random ones.
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let admin = Admin::builder(&Registry::new()).token("u4zQ0nPBJx5m2yGk").build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The configuration in effect, for `/config`. Values under names like `password`, `secret`, `token` or
    /// `api_key`, and passwords in addresses, are hidden; say what else with [`hide`](Self::hide).
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let builder = Admin::builder(&Registry::new()).config(|| serde_json::json!({"pool": 8}));
    /// ```
    ///
    /// With the feature `config`, what is in force after each reload; and commands for its stacks:
    ///
    /// ```
    /// # #[cfg(feature = "config")] {
    /// use buttress::admin::Admin;
    /// use buttress::config::{Format, Loader, Reloader};
    /// use buttress::control::Registry;
    ///
    /// let loader = Loader::new().set("servers.api.rate_limit", "100/s burst 20");
    /// let stacks = loader.load()?.stacks().register_in(&Registry::global());
    /// let server = stacks.server("api")?.http(); // the layer
    /// let watch = Reloader::new(loader, &stacks).watch()?; // until it is dropped
    /// let shown = stacks.clone();
    /// let admin = Admin::builder(&Registry::global())
    ///     .token("u4zQ0nPBJx5m2yGk")
    ///     .config(move || serde_json::from_str(&shown.config().print(Format::Json)).unwrap_or_default())
    ///     .build()?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn config(mut self, make: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        self.config = Some(Arc::new(make));
        self
    }

    /// Also hides what is under names with this in them; case, `_` and `-` do not matter.
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let builder = Admin::builder(&Registry::new()).hide("licence");
    /// ```
    pub fn hide(mut self, word: &str) -> Self {
        self.hidden.push(plain(word));
        self
    }

    /// Pages of this origin may send commands as well, as the browser spells it: behind a proxy that changes
    /// `Host`.
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let builder = Admin::builder(&Registry::new()).allow_origin("https://admin.example.com");
    /// ```
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.push(origin.into());
        self
    }

    /// Requests are for this host, without a port, or for another that is named: else they get a 421. Without
    /// any, a mounted service answers for all hosts, and a loopback listener for `localhost` and its addresses.
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let builder = Admin::builder(&Registry::new()).allow_host("admin.internal");
    /// ```
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// Where it is mounted, when nobody strips that from the path: `/admin`. Other paths are then a 404.
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let admin = Admin::builder(&Registry::new()).prefix("/admin").build()?;
    /// let app: axum::Router = axum::Router::new()
    ///     .route_service("/admin", admin.clone())
    ///     .route_service("/admin/{*path}", admin);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Lets [`listen`](Admin::listen) bind addresses that others can reach. Everybody there can then read.
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let builder = Admin::builder(&Registry::new()).allow_remote();
    /// ```
    pub fn allow_remote(mut self) -> Self {
        self.remote = true;
        self
    }

    /// How often those who are connected to `/events` get a status (default: 1 s).
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let builder = Admin::builder(&Registry::new()).interval(std::time::Duration::from_secs(5));
    /// ```
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How many may be connected to `/events` at once (default: 1,000).
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let builder = Admin::builder(&Registry::new()).max_viewers(20);
    /// ```
    pub fn max_viewers(mut self, most: usize) -> Self {
        self.max_viewers = most;
        self
    }

    /// The longest document of commands, in bytes (default: 64 KiB).
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let builder = Admin::builder(&Registry::new()).max_body(4096);
    /// ```
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// How long such a document may take to arrive (default: 10 s).
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let builder = Admin::builder(&Registry::new()).body_timeout(std::time::Duration::from_secs(2));
    /// ```
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    #[cfg(test)]
    pub(super) fn source(mut self, source: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Checks the settings and begins with the history.
    ///
    /// # Errors
    /// When a setting cannot be used, or no thread be started.
    ///
    /// ```
    /// use buttress::{admin::Admin, control::Registry};
    /// let error = Admin::builder(&Registry::new()).max_viewers(0).build().unwrap_err();
    /// assert_eq!(error.field(), "max_viewers");
    /// ```
    pub fn build(self) -> Result<Admin, ConfigError> {
        let token = self.token.as_deref().map(Token::new).transpose()?;
        let within = |field, value: Duration, least: Duration, expected| {
            if value < least || value > Duration::from_secs(60) {
                return Err(ConfigError::new(field, format_args!("{value:?}"), expected));
            }
            Ok(())
        };
        within("interval", self.interval, Duration::from_millis(100), "100ms to 60s")?;
        within("body_timeout", self.body_timeout, Duration::from_millis(1), "1ms to 60s")?;
        if !(1..=100_000).contains(&self.max_viewers) {
            return Err(ConfigError::new("max_viewers", self.max_viewers, "1 to 100000"));
        }
        if !(1..=16 << 20).contains(&self.max_body) {
            return Err(ConfigError::new("max_body", self.max_body, "1 to 16777216 bytes"));
        }
        for origin in &self.origins {
            let right = origin.split_once("://").is_some_and(|(scheme, rest)| {
                matches!(scheme, "http" | "https")
                    && !rest.is_empty()
                    && !rest.contains(['/', '*', ' ', '@'])
            });
            if !right {
                let expected = "an origin like https://admin.example.com";
                return Err(ConfigError::new("allow_origin", origin, expected));
            }
        }
        for host in &self.hosts {
            // Brackets around an IPv6 address are the port's business.
            if host.is_empty()
                || host.contains(['/', '*', ' ', '@', '['])
                || host.parse::<std::net::Ipv6Addr>().is_err() && name_of(host) != host
            {
                return Err(ConfigError::new("allow_host", host, "a host without a port"));
            }
        }
        let prefix = self.prefix.strip_suffix('/').unwrap_or(&self.prefix);
        if !prefix.is_empty()
            && (!prefix.starts_with('/')
                || prefix.contains(['?', '#', ' '])
                || prefix.contains("//"))
        {
            return Err(ConfigError::new("prefix", prefix, "a path like /admin"));
        }
        if let Some(word) = self.hidden.iter().find(|word| word.is_empty()) {
            return Err(ConfigError::new("hide", format_args!("{word:?}"), "letters or digits"));
        }
        let (running, ended) = channel();
        let registry = self.registry;
        let source = self.source.unwrap_or_else(|| {
            let registry = registry.clone();
            Arc::new(move || super::document::of(&registry))
        });
        let shared = Arc::new(Shared {
            prefix: prefix.to_owned(),
            registry,
            source,
            config: self.config,
            hidden: self.hidden,
            token,
            origins: self.origins,
            hosts: self.hosts,
            remote: self.remote,
            interval: self.interval,
            max_viewers: self.max_viewers,
            max_body: self.max_body,
            body_timeout: self.body_timeout,
            instance: OnceLock::new(),
            hub: Hub::new(self.max_viewers),
            history: Mutex::new(History::default()),
            _running: StdMutex::new(running),
        });
        sampler::start(&shared, ended)
            .map_err(|error| ConfigError::new("thread", error, "one more thread"))?;
        Ok(Admin { shared, loopback: false })
    }
}

impl fmt::Debug for AdminBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminBuilder")
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("interval", &self.interval)
            .field("max_viewers", &self.max_viewers)
            .finish_non_exhaustive()
    }
}

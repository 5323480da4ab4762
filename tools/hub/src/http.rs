//! Requests with retries, redirects and ranges. The token goes to the hub alone, never to a host that it
//! redirects to. It must not know what is asked for.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use crate::error::HubError;
use crate::settings::{Settings, Token};

/// Redirects that are followed.
const HOPS: usize = 8;
/// Tries of a request that is answered with an error of the server or not at all.
pub const TRIES: u32 = 5;
/// Time until a connection that sends nothing is given up.
const SILENCE: Duration = Duration::from_secs(20);
/// Longest wait that a server may ask for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Largest answer that is read into memory as a whole, in bytes.
pub const ANSWER_MAX: u64 = 16 << 20;

/// A client of the hub.
#[derive(Debug, Clone)]
pub struct Http {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
    /// First pause between two tries; it doubles.
    pause: Duration,
}

/// What a request did not get.
#[derive(Debug)]
pub enum Failure {
    /// Worth another try, after this time at least.
    Again(String, Option<Duration>),
    /// It will not get better.
    Final(HubError),
}

/// An answer and where it came from.
pub struct Answer {
    /// Status 200 to 299, or 300 to 499 where the caller decides.
    pub response: Response<Body>,
    /// Address after all redirects.
    pub url: String,
    /// Headers of the hub's own answer, before it redirected to another host.
    pub first: HeaderMap,
}

impl Http {
    /// # Errors
    /// [`HubError::Processor`] for an encrypted hub on a processor without the instructions for it.
    pub fn new(settings: &Settings) -> Result<Self, HubError> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(silence()))
            .accept_encoding("identity")
            .user_agent(concat!("moelten/", env!("CARGO_PKG_VERSION")));
        let config = match tls() {
            Ok(tls) => config.tls_config(tls),
            Err(error) if settings.endpoint.starts_with("https:") => return Err(error),
            // A hub without encryption may still redirect to a host with it; that request is an error then.
            Err(_) => config,
        };
        Ok(Self {
            agent: Agent::new_with_config(config.build()),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            pause: if cfg!(debug_assertions) {
                Duration::from_millis(50)
            } else {
                Duration::from_millis(500)
            },
        })
    }

    /// Address of the hub.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether a token is sent.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The pause before try number `tries`, if the server asked for none.
    pub fn pause(&self, tries: u32) -> Duration {
        self.pause * 2u32.saturating_pow(tries.saturating_sub(1).min(6))
    }

    /// One request, redirects followed. `range` is a first and a last byte.
    ///
    /// # Errors
    /// Errors of the network and of servers, and statuses that are worth another try, are [`Failure::Again`].
    pub fn once(&self, url: &str, head: bool, range: Option<(u64, u64)>) -> Result<Answer, Failure> {
        let mut url = url.to_owned();
        let mut first = None;
        for _ in 0..HOPS {
            let mut request = if head { self.agent.head(&url) } else { self.agent.get(&url) };
            if let Some((from, to)) = range {
                request = request.header("Range", format!("bytes={from}-{to}"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| same_host(&url, &self.endpoint)) {
                request = request.header("Authorization", format!("Bearer {}", token.as_str()));
            }
            let response = request.call().map_err(|error| self.failed(&error))?;
            let status = response.status().as_u16();
            let headers = response.headers();
            let first = &mut *first.get_or_insert_with(|| headers.clone());
            if (300..400).contains(&status)
                && let Some(location) = headers.get("location").and_then(|l| l.to_str().ok())
            {
                // A repository that was renamed answers with a redirect within the hub.
                if same_host(&url, &self.endpoint) && !first.contains_key("x-linked-etag") {
                    first.extend(headers.clone());
                }
                url = absolute(&url, location);
                continue;
            }
            if status == 408 || status == 429 || status >= 500 {
                return Err(Failure::Again(format!("status {status}"), wait(headers)));
            }
            return Ok(Answer { first: first.clone(), response, url });
        }
        let (host, what) = (host(&url), format!("more than {HOPS} redirects"));
        Err(Failure::Final(HubError::Answer { host, what }))
    }

    fn failed(&self, error: &ureq::Error) -> Failure {
        Failure::Again(error.to_string(), None)
    }

    /// A request that is tried again after errors of the network and of the server.
    ///
    /// # Errors
    /// [`HubError::Network`] after the last try, [`HubError::Stopped`].
    pub fn ask(&self, url: &str, head: bool, stopped: &dyn Fn() -> bool) -> Result<Answer, HubError> {
        self.tries(url, stopped, &mut || self.once(url, head, None))
    }

    /// A small answer as a whole, tried again as in [`Http::ask`]; and the address of the next page.
    ///
    /// # Errors
    /// As [`Http::ask`]; statuses from 400 go through `refused`.
    pub fn text(
        &self,
        url: &str,
        stopped: &dyn Fn() -> bool,
        refused: &dyn Fn(u16, &HeaderMap) -> HubError,
    ) -> Result<(Vec<u8>, Option<String>), HubError> {
        self.tries(url, stopped, &mut || {
            let answer = self.once(url, false, None)?;
            let status = answer.response.status().as_u16();
            if status >= 300 {
                return Err(Failure::Final(refused(status, answer.response.headers())));
            }
            let next = next_page(answer.response.headers()).map(|next| absolute(&answer.url, &next));
            let mut bytes = Vec::new();
            let mut reader = answer.response.into_body().into_reader().take(ANSWER_MAX + 1);
            reader.read_to_end(&mut bytes).map_err(|error| Failure::Again(error.to_string(), None))?;
            if bytes.len() as u64 > ANSWER_MAX {
                let (host, what) = (host(url), format!("more than {ANSWER_MAX} bytes"));
                return Err(Failure::Final(HubError::Answer { host, what }));
            }
            Ok((bytes, next))
        })
    }

    /// The bytes of a range, first and last byte included, tried again as in [`Http::ask`]; and the address
    /// that they came from, after all redirects.
    ///
    /// # Errors
    /// As [`Http::text`].
    pub fn read(
        &self,
        url: &str,
        range: (u64, u64),
        stopped: &dyn Fn() -> bool,
        refused: &dyn Fn(u16, &HeaderMap) -> HubError,
    ) -> Result<(Vec<u8>, String), HubError> {
        let wanted = range.1 - range.0 + 1;
        self.tries(url, stopped, &mut || {
            let answer = self.once(url, false, Some(range))?;
            let status = answer.response.status().as_u16();
            // A server without ranges sends the file from its start.
            let skip = match status {
                206 => 0,
                200 => range.0,
                _ => return Err(Failure::Final(refused(status, answer.response.headers()))),
            };
            let again = |error: std::io::Error| Failure::Again(error.to_string(), None);
            let mut reader = answer.response.into_body().into_reader();
            std::io::copy(&mut reader.by_ref().take(skip), &mut std::io::sink()).map_err(again)?;
            let mut bytes = Vec::new();
            reader.take(wanted).read_to_end(&mut bytes).map_err(again)?;
            if (bytes.len() as u64) < wanted {
                return Err(Failure::Again("the connection ended early".to_owned(), None));
            }
            Ok((bytes, answer.url))
        })
    }

    fn tries<T>(
        &self,
        url: &str,
        stopped: &dyn Fn() -> bool,
        request: &mut dyn FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut tries = 1;
        loop {
            if stopped() {
                return Err(HubError::Stopped);
            }
            match request() {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(why, _)) if tries >= TRIES => {
                    return Err(HubError::Network { host: host(url), why, tries });
                }
                Err(Failure::Again(_, wait)) => sleep(wait.unwrap_or_else(|| self.pause(tries)), stopped),
            }
            tries += 1;
        }
    }
}

/// Sleeps in short pieces, so that Ctrl-C is answered at once.
pub fn sleep(time: Duration, stopped: &dyn Fn() -> bool) {
    let piece = Duration::from_millis(50);
    let mut left = time;
    while !left.is_zero() && !stopped() {
        std::thread::sleep(left.min(piece));
        left = left.saturating_sub(piece);
    }
}

/// `MOELTEN_HUB_SILENCE_MS` shortens the time for tests of stalled servers.
fn silence() -> Duration {
    let set = std::env::var("MOELTEN_HUB_SILENCE_MS").ok().and_then(|text| text.parse().ok());
    set.map_or(SILENCE, Duration::from_millis)
}

/// What `Retry-After` asks for, at most [`WAIT_MAX`].
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

/// The address with `rel="next"` of a `Link` header (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<String> {
    let link = headers.get("link")?.to_str().ok()?;
    link.split(',').find_map(|part| {
        let (address, rest) = part.trim().strip_prefix('<')?.split_once('>')?;
        rest.contains("rel=\"next\"").then(|| address.to_owned())
    })
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    &url[..end]
}

/// The host of an address, for messages.
pub fn host(url: &str) -> String {
    let origin = origin(url);
    origin.split_once("://").map_or(origin, |(_, host)| host).to_owned()
}

fn same_host(a: &str, b: &str) -> bool {
    origin(a).eq_ignore_ascii_case(origin(b))
}

/// A redirect's address, which may be relative to the one before.
fn absolute(base: &str, location: &str) -> String {
    if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        let scheme = base.split_once("://").map_or("https", |(scheme, _)| scheme);
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{}{location}", origin(base))
    } else {
        let folder = base.rfind('/').map_or(base.len(), |at| at + 1);
        format!("{}{location}", &base[..folder])
    }
}

/// Encrypted connections by graviola: no C, but it needs these instructions and ends the program without
/// them.
#[cfg(target_arch = "x86_64")]
fn tls() -> Result<ureq::tls::TlsConfig, HubError> {
    use std::arch::is_x86_feature_detected as has;
    let missing = [
        ("AES", has!("aes")),
        ("PCLMULQDQ", has!("pclmulqdq")),
        ("BMI1", has!("bmi1")),
        ("BMI2", has!("bmi2")),
        ("ADX", has!("adx")),
        ("AVX2", has!("avx") && has!("avx2")),
    ];
    provided(missing)
}

#[cfg(target_arch = "aarch64")]
fn tls() -> Result<ureq::tls::TlsConfig, HubError> {
    use std::arch::is_aarch64_feature_detected as has;
    provided([("NEON", has!("neon")), ("AES", has!("aes")), ("PMULL", has!("pmull")), ("SHA2", has!("sha2"))])
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn tls() -> Result<ureq::tls::TlsConfig, HubError> {
    Err(HubError::Processor("x86-64 or ARM64"))
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn provided<const N: usize>(has: [(&'static str, bool); N]) -> Result<ureq::tls::TlsConfig, HubError> {
    if let Some((missing, _)) = has.into_iter().find(|(_, has)| !has) {
        return Err(HubError::Processor(missing));
    }
    let provider = std::sync::Arc::new(rustls_graviola::default_provider());
    Ok(ureq::tls::TlsConfig::builder().unversioned_rustls_crypto_provider(provider).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(host("https://a.b:8/c?d"), "a.b:8");
        assert_eq!(host("https://a.b?x"), "a.b");
        assert!(same_host("http://127.0.0.1:8/x", "http://127.0.0.1:8"));
        for other in [
            "http://localhost:8/x",
            "http://127.0.0.1:80/x",
            "https://127.0.0.1:8/",
            "http://127.0.0.1:8.evil/",
        ] {
            assert!(!same_host(other, "http://127.0.0.1:8"), "{other}");
        }
        assert_eq!(absolute("http://h/a/b", "/c"), "http://h/c");
        assert_eq!(absolute("http://h/a/b", "c"), "http://h/a/c");
        assert_eq!(absolute("http://h/a", "//g/c"), "http://g/c");
        assert_eq!(absolute("http://h/a", "https://g/c"), "https://g/c");
    }

    #[test]
    fn pages_and_waits() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "link",
            "<http://h/p?cursor=2>; rel=\"next\", <http://h/>; rel=\"first\"".parse().expect("ASCII"),
        );
        assert_eq!(next_page(&headers).as_deref(), Some("http://h/p?cursor=2"));
        assert_eq!(wait(&headers), None);
        headers.insert("retry-after", "7".parse().expect("ASCII"));
        assert_eq!(wait(&headers), Some(Duration::from_secs(7)));
        headers.insert("retry-after", "70000".parse().expect("ASCII"));
        assert_eq!(wait(&headers), Some(WAIT_MAX));
    }

    #[test]
    fn encrypted_connections_can_be_made_here() {
        assert!(tls().is_ok(), "this processor has all instructions, or the message names one");
    }
}

//! Who asks, what they may do, and how often: before a request reaches its endpoint. What changed is logged behind it.
//!
//! Names come by basic (RFC 7617) or bearer (RFC 6750) authentication and have one of three roles. Where the worker file
//! names nobody, everybody is an administrator. Secrets are compared by their digests in constant time, so the answer's time
//! says nothing about them.
//!
//! Each address has a bucket of tokens that holds a second's worth of requests and is filled at the configured rate; a request
//! without a token gets 429. Addresses are forgotten when their bucket is full again, and there are never more than
//! [`MOST_ADDRESSES`] of them (I6).
//!
//! Every request that may change something leaves one line in the log, target `tailwater::audit`: who, from where, what, and
//! what was answered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tailwater_api::secret::Secret;

use super::Api;
use super::endpoints::Endpoint;
use super::failure::Failure;
use super::listener::Peer;
use crate::config::rest_options::{ROLES, Role, User};

/// Addresses that are remembered at the same time.
const MOST_ADDRESSES: usize = 4096;

/// Who may do what, and how often. The rules can be replaced while requests are under way; these end by the rules of their beginning.
pub(super) struct Access {
    rules: RwLock<Arc<Rules>>,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

struct Rules {
    users: Vec<User>,
    requests_per_second: f64,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Access {
    pub(super) fn new(users: Vec<User>, requests_per_second: u32) -> Self {
        Self { rules: RwLock::new(Arc::new(Rules::new(users, requests_per_second))), buckets: Mutex::default() }
    }

    /// From now on these users may do what they may.
    pub(super) fn replace(&self, users: Vec<User>, requests_per_second: u32) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Rules::new(users, requests_per_second));
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a token of `address`, if it has one at `now`.
    fn takes_token(&self, address: IpAddr, now: Instant) -> bool {
        let rate = self.rules().requests_per_second;
        let filled = |bucket: &Bucket| (bucket.tokens + now.saturating_duration_since(bucket.filled).as_secs_f64() * rate).min(rate);
        // Buckets are whole at every step, so a panic elsewhere does not make them wrong.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST_ADDRESSES && !buckets.contains_key(&address) {
            buckets.retain(|_, bucket| filled(bucket) < rate);
            if buckets.len() >= MOST_ADDRESSES {
                return false;
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket { tokens: rate, filled: now });
        bucket.tokens = filled(bucket);
        bucket.filled = now;
        let takes = bucket.tokens >= 1.0;
        if takes {
            bucket.tokens -= 1.0;
        }
        takes
    }
}

impl Rules {
    fn new(users: Vec<User>, requests_per_second: u32) -> Self {
        Self { users, requests_per_second: f64::from(requests_per_second.max(1)) }
    }

    /// Who sends these headers; `None` where nobody needs a name.
    fn caller(&self, headers: &HeaderMap) -> Result<Option<&User>, Failure> {
        if self.users.is_empty() {
            return Ok(None);
        }
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let unknown = |message: &str| Failure::new(StatusCode::UNAUTHORIZED, message);
        let Some(given) = given else { return Err(unknown("User cannot access the resource: the request names nobody.")) };
        let (scheme, credentials) = given.split_once(' ').unwrap_or((given, ""));
        let user = if scheme.eq_ignore_ascii_case("basic") {
            self.of_basic(credentials.trim())
        } else if scheme.eq_ignore_ascii_case("bearer") {
            self.of_secret(credentials.trim(), |user| user.token.as_ref())
        } else {
            None
        };
        user.map(Some).ok_or_else(|| unknown("User cannot access the resource: the name, password or token is not known."))
    }

    fn of_basic(&self, credentials: &str) -> Option<&User> {
        let decoded = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
        let (name, password) = decoded.split_once(':')?;
        // Everybody's password is compared, so that a name that is known takes no other time than one that is not.
        self.of_secret(password, |user| user.password.as_ref().filter(|_| user.name == name))
    }

    fn of_secret(&self, given: &str, secret: impl Fn(&User) -> Option<&Secret>) -> Option<&User> {
        let given = digest(&SHA256, given.as_bytes());
        let mut found = None;
        for user in &self.users {
            let known = digest(&SHA256, secret(user).map_or(&[], |secret| secret.expose().as_bytes()));
            if verify_slices_are_equal(given.as_ref(), known.as_ref()).is_ok() && secret(user).is_some() {
                found = Some(user);
            }
        }
        found
    }
}

fn peer(request: &Request) -> Option<Peer> {
    request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| *peer)
}

/// Refuses an address that asks too often.
pub(super) async fn limit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let allowed = peer(&request).is_none_or(|peer| api.access().takes_token(peer.0.ip(), Instant::now()));
    if allowed {
        return next.run(request).await;
    }
    let mut answer =
        Failure::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests; wait a second (rest.requests.per.second).").into_response();
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// Refuses who may not use `endpoint`, and logs what may change something.
pub(super) async fn guard(State((api, endpoint)): State<(Api, &'static Endpoint)>, request: Request, next: Next) -> Response {
    let Some(needed) = endpoint.role else { return next.run(request).await };
    let (path, from) = (request.uri().to_string(), peer(&request));
    let rules = api.access().rules();
    let caller = rules.caller(request.headers());
    let user = caller.as_ref().ok().and_then(|user| user.map(|user| user.name.clone()));
    let mut change = (needed > Role::Read).then(|| Change { user, from, method: endpoint.method, path, status: None });
    let answer = match caller {
        Ok(None) => next.run(request).await,
        Ok(Some(user)) if user.role >= needed => next.run(request).await,
        Ok(Some(user)) => {
            let word = ROLES.iter().find(|(_, role)| *role == needed).map_or("", |(word, _)| word);
            Failure::new(StatusCode::FORBIDDEN, format!("User {} cannot access the resource: it needs the role {word}.", user.name))
                .into_response()
        }
        Err(failure) => {
            let mut answer = failure.into_response();
            for scheme in ["Basic realm=\"tailwater\", charset=\"UTF-8\"", "Bearer realm=\"tailwater\""] {
                answer.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
            answer
        }
    };
    if let Some(change) = &mut change {
        change.status = Some(answer.status().as_u16());
    }
    answer
}

/// A request that may change something; logged when it ends. Where the caller went away before the answer, the change is carried
/// out all the same, and the line has no status.
struct Change {
    user: Option<String>,
    from: Option<Peer>,
    method: &'static str,
    path: String,
    status: Option<u16>,
}

impl Drop for Change {
    fn drop(&mut self) {
        tracing::info!(
            target: "tailwater::audit",
            user = self.user,
            from = self.from.map(|peer| peer.0.to_string()),
            method = self.method,
            path = self.path,
            status = self.status,
            "a change was asked for"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn access() -> Access {
        let user = |name: &str, password: Option<&str>, token: Option<&str>, role| User {
            name: name.to_owned(),
            password: password.map(Secret::new),
            token: token.map(Secret::new),
            role,
        };
        Access::new(vec![user("alice", Some("a:ü"), None, Role::Administer), user("p", None, Some("tok"), Role::Read)], 3)
    }

    fn caller(authorization: Option<&str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        if let Some(text) = authorization {
            headers.insert(header::AUTHORIZATION, text.parse().unwrap());
        }
        access().rules().caller(&headers).ok().map(|user| user.unwrap().name.clone())
    }

    #[test]
    fn a_caller_is_who_can_prove_it() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert_eq!(caller(Some(&basic("alice:a:ü"))).as_deref(), Some("alice"));
        assert_eq!(caller(Some("bearer tok")).as_deref(), Some("p"));
        let wrong = [basic("alice:"), basic("alice:b"), basic("p:tok"), basic("p:"), basic("bob:a:ü"), basic("alice"), "Basic !".into()];
        for wrong in wrong.iter().map(String::as_str).chain(["Bearer ", "Bearer", "Bearer a:ü", "Digest tok", "", "tok"]) {
            assert_eq!(caller(Some(wrong)), None, "{wrong}");
        }
        assert_eq!(caller(None), None);
    }

    #[test]
    fn an_address_has_as_many_requests_as_its_rate_and_no_other_pays_for_it() {
        let (access, now) = (access(), Instant::now());
        let address = |last| IpAddr::from([127, 0, 0, last]);
        assert_eq!((0..5).filter(|_| access.takes_token(address(1), now)).count(), 3);
        assert!(access.takes_token(address(2), now));
        assert!(access.takes_token(address(1), now + Duration::from_millis(400)));
        assert!(!access.takes_token(address(1), now + Duration::from_millis(401)));
        assert_eq!((0..9).filter(|_| access.takes_token(address(1), now + Duration::from_secs(60))).count(), 3);
    }

    #[test]
    fn replaced_rules_hold_from_then_on() {
        let access = access();
        let before = access.rules();
        let bearer: HeaderMap = [(header::AUTHORIZATION, HeaderValue::from_static("Bearer tok"))].into_iter().collect();
        let olga = User { name: "olga".to_owned(), password: None, token: Some(Secret::new("two")), role: Role::Operate };
        access.replace(vec![olga], 1);
        assert!(access.rules().caller(&bearer).is_err());
        assert!(before.caller(&bearer).is_ok(), "a request that has begun");
        let (now, address) = (Instant::now(), IpAddr::from([127, 0, 0, 1]));
        assert!(access.takes_token(address, now) && !access.takes_token(address, now));
    }

    #[test]
    fn i6_addresses_are_forgotten_when_they_are_quiet() {
        let (access, now) = (access(), Instant::now());
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..MOST_ADDRESSES as u32 {
            assert!(access.takes_token(address(number), now));
        }
        assert!(!access.takes_token(address(1 << 20), now), "all of them are busy");
        assert!(access.takes_token(address(1 << 20), now + Duration::from_secs(1)));
        assert_eq!(access.buckets.lock().unwrap().len(), 1);
    }
}

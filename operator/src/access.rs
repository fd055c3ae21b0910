//! How the operator proves to a job's pods who it is: tokens of its own service account, and the issuer's public keys by which pods check them.
//!
//! Both come from the API server and are kept in memory only: keys for minutes, tokens until shortly before they expire. No token is ever
//! logged, and none is sent from here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use axum::http::Request;
use job_api::control::{self, ControlAccess, IssuerKey};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

/// Where API servers serve the keys of their service account tokens, and the name of their issuer.
const KEYS: &str = "/openid/v1/jwks";
const ISSUER: &str = "/.well-known/openid-configuration";
/// How often the keys are read again. An issuer publishes a new key long before it signs with it.
const KEYS_EVERY: Duration = Duration::from_secs(300);
/// Shortest life of a token that the API server gives.
const TOKEN_SECONDS: u64 = 600;
/// A token that expires within this time is not used any more: it must outlast an order and the difference of two clocks.
const TOKEN_MARGIN: Duration = Duration::from_secs(150);

/// A token for the pods of one job.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token of this text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Its text, for one header.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// No token could be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The API server gives none.
    #[error("cannot get a token of service account {account}")]
    Refused {
        /// Of this account.
        account: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// What it gives is none. The answer is not repeated here: it may hold one.
    #[error("the API server's answer to a token request cannot be read")]
    Unreadable,
}

/// The issuer of tokens, as pods must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Issuer {
    name: String,
    keys: Vec<IssuerKey>,
}

struct KnownIssuer {
    issuer: Option<Issuer>,
    read_at: Instant,
}

struct KnownToken {
    token: Token,
    good_until: Instant,
}

/// See the module's documentation.
pub struct Access {
    client: Client,
    namespace: String,
    account: String,
    issuer: Mutex<Option<KnownIssuer>>,
    tokens: Mutex<HashMap<String, KnownToken>>,
}

impl Access {
    /// For the service account of this name in the operator's namespace.
    pub fn new(client: Client, namespace: &str, account: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            issuer: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// Whose orders the pods of a job should take; `None` if the API server does not let the operator read the keys, so that no pod could
    /// check a token.
    pub async fn of_job(&self, job_uid: &str) -> Result<Option<ControlAccess>, kube::Error> {
        let issuer = self.issuer().await?;
        Ok(issuer.map(|issuer| ControlAccess {
            issuer: issuer.name,
            audience: control::audience(job_uid),
            subject: format!("system:serviceaccount:{}:{}", self.namespace, self.account),
            keys: issuer.keys,
        }))
    }

    async fn issuer(&self) -> Result<Option<Issuer>, kube::Error> {
        let known = {
            let known = self.issuer.lock().unwrap_or_else(PoisonError::into_inner);
            known.as_ref().map(|known| (known.issuer.clone(), known.read_at.elapsed() < KEYS_EVERY))
        };
        let last = match known {
            Some((issuer, true)) => return Ok(issuer),
            Some((issuer, false)) => issuer,
            None => None,
        };
        let read = match (read_issuer(&self.client).await, last) {
            (Ok(issuer), _) => Some(issuer),
            (Err(kube::Error::Api(status)), _) if matches!(status.code, 401 | 403 | 404) => {
                tracing::warn!(
                    message = status.message,
                    "the keys of service account tokens cannot be read: pods take no orders; see the chart's role bindings"
                );
                None
            }
            // The last ones hold until the API server answers again.
            (Err(error), Some(last)) => {
                tracing::debug!(%error, "the keys of service account tokens cannot be read now");
                Some(last)
            }
            (Err(error), None) => return Err(error),
        };
        let known = KnownIssuer { issuer: read.clone(), read_at: Instant::now() };
        *self.issuer.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(read)
    }

    /// A token that the pods of this job take.
    pub async fn token(&self, job_uid: &str) -> Result<Token, TokenError> {
        {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.retain(|_, known| Instant::now() < known.good_until);
            if let Some(known) = tokens.get(job_uid) {
                return Ok(known.token.clone());
            }
        }
        let (token, life) = self.request(job_uid).await?;
        let known = KnownToken { token: token.clone(), good_until: Instant::now() + life.saturating_sub(TOKEN_MARGIN) };
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(job_uid.to_owned(), known);
        Ok(token)
    }

    async fn request(&self, job_uid: &str) -> Result<(Token, Duration), TokenError> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", self.namespace, self.account);
        let order = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [control::audience(job_uid)], "expirationSeconds": TOKEN_SECONDS},
        });
        let request = Request::post(path)
            .header("Content-Type", "application/json")
            .body(order.to_string().into_bytes())
            .expect("a path and a header make a request");
        // As text: the client logs an answer that it cannot read.
        let text = self.client.request_text(request).await;
        let text = text.map_err(|source| TokenError::Refused { account: self.account.clone(), source })?;
        read_token(&text, Timestamp::now()).ok_or(TokenError::Unreadable)
    }
}

async fn read_issuer(client: &Client) -> Result<Issuer, kube::Error> {
    let get = |path: &str| Request::get(path).body(Vec::new()).expect("a path makes a request");
    let (configuration, keys) =
        futures::try_join!(client.request::<Configuration>(get(ISSUER)), client.request::<KeySet>(get(KEYS)))?;
    Ok(Issuer { name: configuration.issuer, keys: usable(keys) })
}

#[derive(Deserialize)]
struct Configuration {
    issuer: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// The keys that pods understand, in one order whatever order they come in: what is written must not change from read to read.
fn usable(set: KeySet) -> Vec<IssuerKey> {
    let mut keys: Vec<IssuerKey> = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The token in the answer to a request, and for how long it is good.
fn read_token(answer: &str, now: Timestamp) -> Option<(Token, Duration)> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    let status = answer.get("status")?;
    let token = status.get("token")?.as_str()?.to_owned();
    let expires: Timestamp = status.get("expirationTimestamp")?.as_str()?.parse().ok()?;
    let life = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
    Some((Token(token), life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_one_order_and_those_of_other_kinds_are_left_out() {
        let rsa = json!({"use": "sig", "kty": "RSA", "kid": "b", "alg": "RS256", "n": "AQAB", "e": "AQAB"});
        let older = json!({"use": "sig", "kty": "RSA", "kid": "a", "alg": "RS256", "n": "AQAB", "e": "AQAB"});
        let other = json!({"use": "sig", "kty": "OKP", "kid": "c", "crv": "Ed25519", "x": "AA"});
        let one = usable(KeySet { keys: vec![rsa.clone(), other, older.clone()] });
        assert_eq!(one.len(), 2);
        assert_eq!(one, usable(KeySet { keys: vec![older, rsa.clone(), rsa] }));
    }

    #[test]
    fn a_token_is_read_with_its_life_and_is_never_shown() {
        let answer = r#"{"status": {"token": "secret", "expirationTimestamp": "2026-11-21T07:10:00Z"}}"#;
        let now: Timestamp = "2026-11-21T07:00:00Z".parse().expect("it is a time");
        let (token, life) = read_token(answer, now).expect("it is a token");
        assert_eq!((token.reveal(), life), ("secret", Duration::from_secs(600)));
        assert!(!format!("{token:?}").contains("secret"));
        for wrong in ["", "{}", r#"{"status": {"token": "secret"}}"#] {
            assert_eq!(read_token(wrong, now), None, "{wrong}");
        }
    }
}

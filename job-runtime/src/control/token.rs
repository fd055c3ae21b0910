//! Tokens of the operator: whether one was signed by the issuer, for this job, for the operator, and holds now. Pure: keys, token and time are
//! given.
//!
//! Written here and not taken from a library, because exactly one shape is accepted: a compact JWS of a service account, signed with RS256 or
//! ES256/384/512 by a key of the list. The key decides on the algorithm, never the token. No message holds a part of a token.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use job_api::control::{ControlAccess, IssuerKey};
use serde::Deserialize;

/// Clocks of the API server and of this node may differ by so many seconds.
const CLOCKS: i64 = 60;
/// Longest token that is looked at; those of service accounts have one to two thousand bytes.
const TOKEN_MAX: usize = 8 * 1024;

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    /// Not three parts of base64url with JSON in them, or too long.
    #[error("it is no token of a service account")]
    Malformed,
    /// No key of the issuer has its id.
    #[error("it is signed with a key that this pod does not know; new keys come to a pod within two minutes")]
    UnknownKey,
    /// It names an algorithm that is not its key's, or one that is not taken.
    #[error("its algorithm is not that of its key")]
    Algorithm,
    /// The signature is not the key's.
    #[error("its signature is wrong")]
    Signature,
    /// Of another issuer.
    #[error("it was made by another issuer")]
    Issuer,
    /// For something else.
    #[error("it is for another audience than this job")]
    Audience,
    /// Of somebody else.
    #[error("it is not the operator's")]
    Subject,
    /// Too old.
    #[error("it expired {seconds} s ago by this node's clock")]
    Expired {
        /// Since when.
        seconds: i64,
    },
    /// Too young.
    #[error("it holds only in {seconds} s by this node's clock")]
    NotYet {
        /// From when.
        seconds: i64,
    },
}

/// Checks tokens of one operator for one job.
#[derive(Debug)]
pub(super) struct Verifier {
    issuer: String,
    audience: String,
    subject: String,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: String,
    kind: KeyKind,
}

#[derive(Debug)]
enum KeyKind {
    Rsa(PublicKeyComponents<Vec<u8>>),
    Ec { curve: Curve, point: Vec<u8> },
}

#[derive(Clone, Copy, Debug)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn of(name: &str) -> Option<Self> {
        match name {
            "P-256" => Some(Self::P256),
            "P-384" => Some(Self::P384),
            "P-521" => Some(Self::P521),
            _ => None,
        }
    }

    /// The name of its algorithm in a token, the library's, and the bytes of a coordinate.
    fn facts(self) -> (&'static str, &'static EcdsaVerificationAlgorithm, usize) {
        match self {
            Self::P256 => ("ES256", &ECDSA_P256_SHA256_FIXED, 32),
            Self::P384 => ("ES384", &ECDSA_P384_SHA384_FIXED, 48),
            Self::P521 => ("ES512", &ECDSA_P521_SHA512_FIXED, 66),
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    /// What a verifier must understand. We understand nothing.
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    exp: i64,
    nbf: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Verifier {
    /// A key that cannot be used is left out, and tokens signed with it are not known.
    pub(super) fn new(access: &ControlAccess) -> Self {
        let keys = access.keys.iter().filter_map(|key| {
            let read = Key::read(key);
            if read.is_none() {
                tracing::warn!("a key of the tokens' issuer cannot be used");
            }
            read
        });
        Self {
            issuer: access.issuer.clone(),
            audience: access.audience.clone(),
            subject: access.subject.clone(),
            keys: keys.collect(),
        }
    }

    /// Checks a token at a time in seconds since 1970-01-01T00:00:00Z.
    pub(super) fn check(&self, token: &str, now: i64) -> Result<(), TokenError> {
        if token.len() > TOKEN_MAX {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Header = part(header)?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let key = self.keys.iter().find(|key| key.id == header.kid).ok_or(TokenError::UnknownKey)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        key.check(&header.alg, signed.as_bytes(), &signature)?;
        // Only now is anything of it believed.
        self.check_claims(&part(claims)?, now)
    }

    fn check_claims(&self, claims: &Claims, now: i64) -> Result<(), TokenError> {
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        let ours = match &claims.aud {
            Audience::One(audience) => *audience == self.audience,
            Audience::Many(all) => all.contains(&self.audience),
        };
        if !ours {
            return Err(TokenError::Audience);
        }
        if claims.sub != self.subject {
            return Err(TokenError::Subject);
        }
        let age = now.saturating_sub(claims.exp);
        if age > CLOCKS {
            return Err(TokenError::Expired { seconds: age });
        }
        let until = claims.nbf.map_or(0, |from| from.saturating_sub(now));
        if until > CLOCKS {
            return Err(TokenError::NotYet { seconds: until });
        }
        Ok(())
    }
}

/// A part of a token as JSON.
fn part<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

impl Key {
    fn read(key: &IssuerKey) -> Option<Self> {
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        match key {
            IssuerKey::Rsa { kid, n, e } => {
                let without_zeros = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect();
                let parts = PublicKeyComponents { n: without_zeros(decode(n)?), e: without_zeros(decode(e)?) };
                Some(Self { id: kid.clone(), kind: KeyKind::Rsa(parts) })
            }
            IssuerKey::Ec { kid, crv, x, y } => {
                let curve = Curve::of(crv)?;
                let (_, _, size) = curve.facts();
                let (x, y) = (decode(x)?, decode(y)?);
                if x.len() != size || y.len() != size {
                    return None;
                }
                // SEC 1: a point without compression.
                let point = [&[4][..], &x, &y].concat();
                Some(Self { id: kid.clone(), kind: KeyKind::Ec { curve, point } })
            }
        }
    }

    fn check(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        let expected = match &self.kind {
            KeyKind::Rsa(_) => "RS256",
            KeyKind::Ec { curve, .. } => curve.facts().0,
        };
        if algorithm != expected {
            return Err(TokenError::Algorithm);
        }
        let checked = match &self.kind {
            KeyKind::Rsa(parts) => parts.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            KeyKind::Ec { curve, point } => UnparsedPublicKey::new(curve.facts().1, point).verify(message, signature),
        };
        checked.map_err(|_| TokenError::Signature)
    }
}

//! An issuer of tokens for tests: keys, and tokens of a service account signed with them, right and wrong.
//!
//! Shared with the unit tests of the control port. It shares no code with what it tests.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub(crate) const SUBJECT: &str = "system:serviceaccount:millstream-system:millstream-operator";

/// A key that signs tokens.
pub(crate) enum SigningKey {
    Rsa { kid: &'static str, pair: RsaKeyPair },
    Ec { kid: &'static str, curve: &'static str, algorithm: &'static str, pair: EcdsaKeyPair },
}

impl SigningKey {
    pub(crate) fn rsa(kid: &'static str) -> Self {
        Self::Rsa { kid, pair: RsaKeyPair::generate(KeySize::Rsa2048).unwrap() }
    }

    pub(crate) fn p256(kid: &'static str) -> Self {
        Self::ec(kid, "P-256", "ES256", &ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    pub(crate) fn p384(kid: &'static str) -> Self {
        Self::ec(kid, "P-384", "ES384", &ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    fn ec(
        kid: &'static str,
        curve: &'static str,
        algorithm: &'static str,
        library: &'static EcdsaSigningAlgorithm,
    ) -> Self {
        Self::Ec { kid, curve, algorithm, pair: EcdsaKeyPair::generate(library).unwrap() }
    }

    fn kid(&self) -> &'static str {
        match self {
            Self::Rsa { kid, .. } | Self::Ec { kid, .. } => kid,
        }
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa { .. } => "RS256",
            Self::Ec { algorithm, .. } => algorithm,
        }
    }

    /// As in a key set.
    pub(crate) fn public(&self) -> Value {
        match self {
            Self::Rsa { kid, pair } => {
                let der = &mut pair.public_key().as_ref();
                *der = field(der);
                let (n, e) = (base64(without_zero(field(der))), base64(without_zero(field(der))));
                json!({"kty": "RSA", "kid": kid, "n": n, "e": e})
            }
            Self::Ec { kid, curve, pair, .. } => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "kid": kid, "crv": curve, "x": base64(x), "y": base64(y)})
            }
        }
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": self.algorithm(), "kid": self.kid()}), claims)
    }

    /// A token with this header.
    pub(crate) fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa { pair, .. } => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
            Self::Ec { pair, .. } => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", base64(&signature))
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// What the operator's token for the job of this uid says.
pub(crate) fn claims(job_uid: &str) -> Value {
    json!({
        "iss": ISSUER, "sub": SUBJECT, "aud": [format!("millstream/{job_uid}")],
        "iat": now(), "nbf": now(), "exp": now() + 600,
        "kubernetes.io": {"namespace": "millstream-system"}
    })
}

/// What the operator writes into the settings of the job of this uid.
pub(crate) fn access(job_uid: &str, keys: &[&SigningKey]) -> Value {
    json!({
        "issuer": ISSUER, "subject": SUBJECT, "audience": format!("millstream/{job_uid}"),
        "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>()
    })
}

/// Takes the contents of the next field of a DER structure.
fn field<'a>(der: &mut &'a [u8]) -> &'a [u8] {
    let (length, head) = match der[1] {
        short if short < 0x80 => (usize::from(short), 2),
        long => {
            let bytes = usize::from(long & 0x7f);
            (der[2..2 + bytes].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 2 + bytes)
        }
    };
    let (contents, rest) = der[head..].split_at(length);
    *der = rest;
    contents
}

fn without_zero(number: &[u8]) -> &[u8] {
    number.strip_prefix(&[0]).unwrap_or(number)
}

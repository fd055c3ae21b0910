//! Who may give orders to a job's pods, and how a pod knows: what the operator puts into [`crate::PodSettings`].
//!
//! An order carries `Authorization: Bearer` with a token that the API server made for the operator's service account: short-lived, and for
//! the audience of exactly one job. The pod checks it against the public keys here. Nothing in this module is a secret; it checks no token.

use serde::{Deserialize, Serialize};

/// Whose orders a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlAccess {
    /// The token's `iss`.
    pub issuer: String,
    /// What its `aud` must hold: [`audience`] of the job.
    pub audience: String,
    /// Its `sub`: the operator's service account.
    pub subject: String,
    /// The issuer's keys, in the order of their ids. One of them signed the token.
    pub keys: Vec<IssuerKey>,
}

/// A public key as in a JSON Web Key Set; other kinds are left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kty")]
pub enum IssuerKey {
    /// For tokens with `alg` RS256.
    #[serde(rename = "RSA")]
    Rsa {
        /// Its id.
        kid: String,
        /// Modulus, base64url.
        n: String,
        /// Exponent, base64url.
        e: String,
    },
    /// For tokens with `alg` ES256, ES384 or ES512, as the curve says.
    #[serde(rename = "EC")]
    Ec {
        /// Its id.
        kid: String,
        /// Name of the curve: `P-256`, `P-384` or `P-521`.
        crv: String,
        /// Coordinate, base64url.
        x: String,
        /// Coordinate, base64url.
        y: String,
    },
}

/// The audience of tokens for the job of this uid.
pub fn audience(job_uid: &str) -> String {
    format!("millstream/{job_uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_api_servers_write_them() {
        let text = r#"[{"use":"sig","kty":"RSA","kid":"a","alg":"RS256","n":"AQAB","e":"AQAB"},
                       {"use":"sig","kty":"EC","kid":"b","crv":"P-256","alg":"ES256","x":"AA","y":"AQ"}]"#;
        let keys: Vec<IssuerKey> = serde_json::from_str(text).expect("these are keys");
        let rsa = IssuerKey::Rsa { kid: "a".to_owned(), n: "AQAB".to_owned(), e: "AQAB".to_owned() };
        let ec = IssuerKey::Ec { kid: "b".to_owned(), crv: "P-256".to_owned(), x: "AA".to_owned(), y: "AQ".to_owned() };
        assert_eq!(keys, [rsa, ec]);
        let back = serde_json::to_string(&keys).expect("keys are JSON");
        assert_eq!(serde_json::from_str::<Vec<IssuerKey>>(&back).expect("what was written is read"), keys);
    }
}

//! Requests to the S3 server of the environment, by `curl`, which signs them. It knows nothing of what lies in a bucket.

use anyhow::{Context, ensure};

use crate::cluster::run_with;

fn var(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: use `make e2e`, or `eval \"$(e2e/lab/env)\"`"))
}

/// The server as pods reach it.
///
/// # Errors
/// When the environment does not say.
pub fn endpoint_of_pods() -> anyhow::Result<String> {
    var("AWS_ENDPOINT_URL_PODS").or_else(|_| var("AWS_ENDPOINT_URL"))
}

/// The server's region.
///
/// # Errors
/// When the environment does not say.
pub fn region() -> anyhow::Result<String> {
    var("AWS_REGION")
}

/// Key and secret of a user who may do everything.
///
/// # Errors
/// When the environment does not say.
pub fn credentials() -> anyhow::Result<(String, String)> {
    Ok((var("AWS_ACCESS_KEY_ID")?, var("AWS_SECRET_ACCESS_KEY")?))
}

/// Sends a request with these arguments of `curl` to the object or bucket at `path`; answers with the status code.
///
/// # Errors
/// When there is no answer.
pub fn request(arguments: &[&str], path: &str) -> anyhow::Result<String> {
    signed(&[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat(), path)
}

fn signed(arguments: &[&str], path: &str) -> anyhow::Result<String> {
    let (key, secret) = credentials()?;
    let (sign, url) = (format!("aws:amz:{}:s3", region()?), format!("{}/{path}", var("AWS_ENDPOINT_URL")?));
    // The user comes in by standard input: an argument can be seen by others, and is part of the message of a failure.
    let signed = ["--config", "-", "--aws-sigv4", &sign, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"];
    let user = format!("user = \"{key}:{secret}\"\n");
    run_with(&user, "curl", &[&["-sS", "--max-time", "20"], &signed[..], arguments, &[url.as_str()]].concat())
}

/// Makes a bucket.
///
/// # Errors
/// When the server refuses.
pub fn create_bucket(name: &str) -> anyhow::Result<()> {
    let code = request(&["-X", "PUT"], name)?;
    ensure!(code == "200", "the bucket {name} was not made: {code}");
    Ok(())
}

/// Removes a bucket and everything in it.
///
/// # Errors
/// When the server refuses.
pub fn remove_bucket(name: &str) -> anyhow::Result<()> {
    loop {
        // As many as the server shows at once.
        let listed = signed(&[], &format!("{name}?list-type=2"))?;
        let keys: Vec<&str> = listed.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).collect();
        if keys.is_empty() {
            break;
        }
        for key in keys {
            let code = request(&["-X", "DELETE"], &format!("{name}/{key}"))?;
            ensure!(code == "204", "{name}/{key} was not removed: {code}");
        }
    }
    let code = request(&["-X", "DELETE"], name)?;
    ensure!(code == "204", "the bucket {name} was not removed: {code}");
    Ok(())
}

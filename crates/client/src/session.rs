//! Login: a challenge from the market, checked and signed, for a token that is kept until shortly before it ends.

use std::time::{Duration, SystemTime};

use api::{Challenge, ChallengeRequest, LoginRequest, Session, SessionRequest};
use protocol::{PublicKey, SecretKey};

use crate::{Client, Error, transport::Call};

/// A token is renewed when it has less than this left.
const RENEW_BEFORE: Duration = Duration::from_secs(30);

/// A token and when to stop using it.
#[derive(Clone)]
pub(crate) struct Token {
    session: Session,
    renew_at: SystemTime,
}

impl Client {
    /// Logs in now and keeps the token; other calls do this by themselves when they need it.
    pub async fn login(&self) -> Result<Session, Error> {
        let mut token = self.token_slot().lock().await;
        let session = self.challenge_and_login(None).await?;
        *token = Some(Token::new(session.clone()));
        Ok(session)
    }

    /// Lets `session` act for this client's wallet for `lifetime`; both keys sign. The delegation is in the market's hands
    /// afterwards: a client with the session key logs in by itself.
    pub async fn delegate(&self, session: &SecretKey, lifetime: Duration) -> Result<Session, Error> {
        let lifetime_s = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        self.challenge_and_login(Some((session, lifetime_s))).await
    }

    /// A token with some life left.
    pub(crate) async fn token(&self) -> Result<String, Error> {
        // Held across the login, so that many waiting calls log in once.
        let mut token = self.token_slot().lock().await;
        if let Some(token) = &*token
            && token.renew_at > SystemTime::now()
        {
            return Ok(token.session.token.clone());
        }
        let session = self.challenge_and_login(None).await?;
        let text = session.token.clone();
        *token = Some(Token::new(session));
        Ok(text)
    }

    /// Forgets the token that the market refused, unless another call has a newer one by now.
    pub(crate) async fn forget_token(&self, refused: Option<&str>) {
        let mut token = self.token_slot().lock().await;
        if token.as_ref().map(|t| t.session.token.as_str()) == refused {
            *token = None;
        }
    }

    /// Logs in. Another process of the market may have taken over between the challenge and its answer, and knows nothing of
    /// it: then there is a new challenge.
    async fn challenge_and_login(&self, session: Option<(&SecretKey, u32)>) -> Result<Session, Error> {
        match self.answer_challenge(session).await {
            Err(error) if error.code() == Some(api::code::NONCE_INVALID) => {
                self.answer_challenge(session).await
            }
            answered => answered,
        }
    }

    async fn answer_challenge(&self, session: Option<(&SecretKey, u32)>) -> Result<Session, Error> {
        let key = self.key().ok_or(Error::NoKey)?;
        let delegation = session.map(|(key, lifetime_s)| SessionRequest { key: key.public(), lifetime_s });
        let request = ChallengeRequest { address: key.public(), session: delegation };
        let challenge: Challenge =
            self.json_boxed(Call::post("/v1/auth/challenge", &request).repeatable()).await?;
        let delegated = request.session.as_ref().map(|s| s.key);
        check_message(&challenge, self.authority(), key.public(), delegated)?;
        let sign = |key: &SecretKey| key.sign_bytes(challenge.message.as_bytes());
        let (signature, session_signature) = (sign(key), session.map(|(key, _)| sign(key)));
        let login = LoginRequest { nonce: challenge.nonce, signature, session_signature };
        self.json_boxed(Call::post("/v1/auth/login", &login)).await
    }

    /// Boxed because [`Client::send`] logs in, and logging in sends.
    fn json_boxed<'a, T: serde::de::DeserializeOwned + 'a>(
        &'a self,
        call: Call,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>> {
        Box::pin(async move { self.json(&call).await })
    }
}

impl Token {
    fn new(session: Session) -> Self {
        let now = SystemTime::now();
        // An unreadable time, or one that our clock holds for past, means a login a call; a token that the market refuses
        // is renewed anyway.
        let ends = humantime::parse_rfc3339(&session.expires_at).unwrap_or(now);
        Self { session, renew_at: ends.checked_sub(RENEW_BEFORE).unwrap_or(now) }
    }
}

/// Checks that a message is a login at this market with our key, and delegates nothing that we did not ask for. Without this,
/// one market could have us sign its login at another.
fn check_message(
    challenge: &Challenge,
    authority: &str,
    address: PublicKey,
    delegated: Option<PublicKey>,
) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::LoginMessage { reason });
    let mut lines = challenge.message.lines();
    let first = lines.next().unwrap_or_default();
    if first != format!("{authority} wants you to sign in with your Solana account:") {
        return refuse(format!("it is not a login at {authority} but says {first:?}"));
    }
    if lines.next() != Some(&address.to_string()) {
        return refuse(format!("it does not name our key {address}"));
    }
    let nonce = challenge.nonce.as_str();
    if nonce.len() < 8 || !challenge.message.lines().any(|line| line.strip_prefix("Nonce: ") == Some(nonce)) {
        return refuse("it does not contain the challenge's nonce".to_owned());
    }
    let resources: Vec<&str> = challenge.message.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    match delegated {
        None if !resources.is_empty() => {
            refuse(format!("it would grant {resources:?}, which was not asked for"))
        }
        Some(key) if resources.len() != 1 || !resources[0].contains(&key.to_string()) => {
            refuse(format!("it grants {resources:?} instead of acting by {key}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::SecretKey;

    use super::*;

    fn challenge(message: &str) -> Challenge {
        Challenge {
            nonce: "abcdefgh12345678".into(),
            message: message.into(),
            expires_at: "2026-11-20T12:00:00.000Z".into(),
        }
    }

    #[test]
    fn only_a_login_at_this_market_with_our_key_and_nonce_is_signed() {
        let key = SecretKey::from_seed([1; 32]).public();
        let other = SecretKey::from_seed([2; 32]).public();
        let message = |host: &str, key: PublicKey, nonce: &str, rest: &str| {
            format!(
                "{host} wants you to sign in with your Solana account:\n{key}\n\nSign in.\n\nURI: http://{host}\n\
                 Version: 1\nNonce: {nonce}\nIssued At: 2026-11-20T11:55:00.000Z{rest}"
            )
        };
        let nonce = "abcdefgh12345678";
        let check = |text: &str, delegated| check_message(&challenge(text), "127.0.0.1:7700", key, delegated);

        check(&message("127.0.0.1:7700", key, nonce, ""), None).unwrap();
        check(&message("evil.example", key, nonce, ""), None).unwrap_err();
        check(&message("127.0.0.1:7700.evil.example", key, nonce, ""), None).unwrap_err();
        check(&message("127.0.0.1:7700", other, nonce, ""), None).unwrap_err();
        check(&message("127.0.0.1:7700", key, "another1nonce", ""), None).unwrap_err();

        let grant = format!("\nResources:\n- plexus:session:{other}");
        check(&message("127.0.0.1:7700", key, nonce, &grant), Some(other)).unwrap();
        check(&message("127.0.0.1:7700", key, nonce, &grant), None).unwrap_err();
        check(&message("127.0.0.1:7700", key, nonce, &grant), Some(key)).unwrap_err();
        check(&message("127.0.0.1:7700", key, nonce, ""), Some(other)).unwrap_err();
    }
}

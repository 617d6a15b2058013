//! The SDK's HTTP client, which sets TLS up when it is first needed.
//!
//! By itself the SDK reads every root certificate of the machine while it is set up, from some 150
//! files: also where the store and whoever gives credentials are reached without TLS, and before
//! the first request of a mount.

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// Two of the SDK's clients; each is set up by its first request.
#[derive(Debug, Clone)]
pub(super) struct LazyTls {
    plain: SharedHttpClient,
    tls: SharedHttpClient,
}

impl LazyTls {
    /// As the SDK's own: proxies of the environment, and TLS by rustls with the machine's roots.
    pub(super) fn client() -> SharedHttpClient {
        let tls = Builder::new().build_with_connector_fn(|settings, components| {
            let provider = Provider::Rustls(CryptoMode::AwsLc);
            connector(settings, components).tls_provider(provider).build()
        });
        let plain = Builder::new().build_with_connector_fn(|settings, components| {
            connector(settings, components).build_http()
        });
        let plain = if has_tls_proxy() { tls.clone() } else { plain };
        SharedHttpClient::new(LazyTls { plain, tls })
    }
}

impl HttpClient for LazyTls {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(ByScheme {
            clients: self.clone(),
            settings: settings.clone(),
            components: components.clone(),
        })
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.tls.connector_metadata()
    }
}

/// Gives a request to the client that its address needs.
#[derive(Debug)]
struct ByScheme {
    clients: LazyTls,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for ByScheme {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let is_plain = request.uri().starts_with("http://");
        let client = if is_plain { &self.clients.plain } else { &self.clients.tls };
        client.http_connector(&self.settings, &self.components).call(request)
    }
}

/// What both clients have in common.
fn connector(
    settings: Option<&HttpConnectorSettings>,
    components: Option<&RuntimeComponents>,
) -> ConnectorBuilder {
    let mut builder = ConnectorBuilder::default();
    builder.set_connector_settings(settings.cloned());
    builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
    builder.set_proxy_config(Some(ProxyConfig::from_env()));
    builder
}

/// Whether what needs no TLS goes through a proxy that does.
fn has_tls_proxy() -> bool {
    let names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    names.iter().any(|name| {
        std::env::var(name).is_ok_and(|url| url.trim_start().to_lowercase().starts_with("https"))
    })
}

//! A page of metrics in the format the scraper asks for: OpenMetrics where it prefers it, the text format otherwise.

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use mime::Mime;

use crate::{
    http::rendered::{FRESH, Rendered, Room},
    sinks::metrics::{CONTENT_TYPE, Metrics, OPEN_METRICS, Page},
};

/// Each format is rendered at most once a second.
#[derive(Clone)]
pub struct Exposed {
    text: Rendered,
    open_metrics: Rendered,
}

impl Exposed {
    /// A scrape of it gets through whatever else is being sent.
    pub fn always(room: &Room) -> Self {
        Self { text: room.text(FRESH).always(), open_metrics: room.text(FRESH).always() }
    }

    pub fn answer(&self, request: &HeaderMap, metrics: &Metrics, page: Page) -> Response {
        let mut response = if prefers_open_metrics(request) {
            self.open_metrics.answer(request, OPEN_METRICS, || metrics.open_metrics(page).into_bytes())
        } else {
            self.text.answer(request, CONTENT_TYPE, || metrics.render(page).into_bytes())
        };
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
        response
    }
}

/// `application/openmetrics-text`, of version 1.0.0 where one is named, with at least the weight of plain text (RFC
/// 9110, 12.5.1). `*/*` is no wish for it: a person with curl reads the text format.
fn prefers_open_metrics(request: &HeaderMap) -> bool {
    let fields = request.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut open, mut plain) = (0.0f32, 0.0f32);
    for range in
        fields.flat_map(|field| field.split(',')).filter_map(|range| range.trim().parse::<Mime>().ok())
    {
        let weight = match range.get_param("q") {
            None => 1.0,
            Some(weight) => weight.as_str().parse().unwrap_or(0.0),
        };
        match range.essence_str() {
            "application/openmetrics-text" if range.get_param("version").is_none_or(|v| v == "1.0.0") => {
                open = open.max(weight);
            }
            "text/plain" => plain = plain.max(weight),
            _ => {}
        }
    }
    open > 0.0 && open >= plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_prefer_it() {
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                            escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let prometheus_text_first =
            "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.2";
        let protobuf_first = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                              encoding=delimited;q=0.7,application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3";
        let table = [
            (prometheus_3, true),
            (prometheus_text_first, false),
            (protobuf_first, true),
            ("application/openmetrics-text", true),
            ("APPLICATION/OpenMetrics-Text; version=1.0.0", true),
            ("application/openmetrics-text;version=0.0.1", false),
            ("application/openmetrics-text;version=2.0.0", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=nonsense", false),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
            ("*/*", false),
            ("", false),
            (";;,=,", false),
        ];
        for (value, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(value));
            assert_eq!(prefers_open_metrics(&headers), expected, "{value:?}");
        }
    }
}

-- Spans and response times, for looking at turns without a tracing backend.

CREATE TABLE trace_spans (
  trace_id text NOT NULL,
  span_id text NOT NULL,
  parent_span_id text,
  name text NOT NULL,
  service text NOT NULL,
  status text NOT NULL CHECK (status IN ('ok', 'error', 'cancelled')),
  started_at timestamptz NOT NULL,
  duration_ms double precision NOT NULL,
  attributes jsonb NOT NULL DEFAULT '{}',
  session_id text,
  turn_id text,
  PRIMARY KEY (trace_id, span_id)
);
COMMENT ON TABLE trace_spans IS 'Kept for TRACE_RETENTION. Without foreign keys: a span may be written before its turn, or after its session is gone.';
CREATE INDEX trace_spans_turn ON trace_spans (turn_id) WHERE turn_id IS NOT NULL;
CREATE INDEX trace_spans_session ON trace_spans (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX trace_spans_name ON trace_spans (name, started_at);
CREATE INDEX trace_spans_time ON trace_spans (started_at);
CREATE INDEX trace_spans_failed ON trace_spans (status, started_at) WHERE status <> 'ok';

CREATE TABLE performance_metrics (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  session_id text,
  endpoint text NOT NULL,
  response_time_ms double precision NOT NULL,
  status text NOT NULL,
  recorded_at timestamptz NOT NULL
);
COMMENT ON TABLE performance_metrics IS 'One row a turn: from the request to the end of the reply.';
CREATE INDEX performance_metrics_time ON performance_metrics (recorded_at);
CREATE INDEX performance_metrics_session ON performance_metrics (session_id) WHERE session_id IS NOT NULL;

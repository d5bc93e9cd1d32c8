-- What happened during a span, such as retries.

ALTER TABLE trace_spans ADD COLUMN events jsonb NOT NULL DEFAULT '[]';

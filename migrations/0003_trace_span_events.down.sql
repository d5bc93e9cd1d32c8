ALTER TABLE trace_spans DROP COLUMN events;

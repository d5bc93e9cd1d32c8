DROP TABLE performance_metrics;
DROP TABLE trace_spans;

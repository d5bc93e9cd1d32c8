DROP TABLE usage;
DROP TABLE tool_calls;
DROP TABLE messages;
DROP TABLE turns;
DROP TABLE sessions;
DROP TABLE instances;

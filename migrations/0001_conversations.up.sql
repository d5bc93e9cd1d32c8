-- Sessions, their turns and messages, and what each turn did.

CREATE TABLE instances (
  id text PRIMARY KEY,
  seen_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE instances IS 'Server processes that may own turns. One not seen for a while is dead, and its turns are ended for it.';

CREATE TABLE sessions (
  id text PRIMARY KEY CHECK (char_length(id) BETWEEN 1 AND 255),
  user_id text,
  context jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),
  last_activity timestamptz NOT NULL DEFAULT now(),
  message_count integer NOT NULL DEFAULT 0,
  turn_count integer NOT NULL DEFAULT 0,
  running_turn uuid
);
COMMENT ON COLUMN sessions.running_turn IS 'The one turn that may run. Taken and released with the row locked, so that no two turns of a session overlap, whichever process runs them.';

CREATE TABLE turns (
  id uuid PRIMARY KEY,
  session_id text NOT NULL REFERENCES sessions ON DELETE CASCADE,
  number integer NOT NULL,
  status text NOT NULL CHECK (status IN ('accepted', 'running', 'completed', 'failed', 'cancelled', 'interrupted')),
  owner text NOT NULL,
  model text,
  error_code text,
  trace_id text,
  accepted_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz,
  UNIQUE (session_id, number)
);
COMMENT ON COLUMN turns.number IS 'Position in the session, from 1.';
CREATE INDEX turns_open ON turns (owner) WHERE status IN ('accepted', 'running');

CREATE TABLE messages (
  id uuid PRIMARY KEY,
  session_id text NOT NULL REFERENCES sessions ON DELETE CASCADE,
  turn_id uuid NOT NULL REFERENCES turns ON DELETE CASCADE,
  turn_number integer NOT NULL,
  role text NOT NULL CHECK (role IN ('user', 'assistant')),
  content text NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE messages IS 'Ordered by turn, the user''s first: a message accepted while an earlier turn runs comes after that turn''s reply.';
CREATE UNIQUE INDEX messages_in_order ON messages (session_id, turn_number, (role = 'assistant'));
CREATE INDEX messages_turn ON messages (turn_id);

CREATE TABLE tool_calls (
  turn_id uuid NOT NULL REFERENCES turns ON DELETE CASCADE,
  step smallint NOT NULL,
  position smallint NOT NULL,
  call_id text NOT NULL,
  name text NOT NULL,
  arguments text NOT NULL,
  text_offset integer NOT NULL,
  result text NOT NULL,
  success boolean NOT NULL,
  duration_ms double precision NOT NULL,
  PRIMARY KEY (turn_id, step, position)
);
COMMENT ON COLUMN tool_calls.text_offset IS 'UTF-16 code units of the reply that came before the call.';

CREATE TABLE usage (
  turn_id uuid NOT NULL REFERENCES turns ON DELETE CASCADE,
  step smallint NOT NULL,
  model text NOT NULL,
  prompt_tokens integer NOT NULL,
  completion_tokens integer NOT NULL,
  PRIMARY KEY (turn_id, step)
);

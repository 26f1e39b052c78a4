-- The catalog, version 4: operations for agents, and what they say of health.

-- What the agent asks of the job while it runs (JSON of HealthSpec); NULL: nothing. drive writes it.
ALTER TABLE desired_allocation ADD COLUMN health TEXT;

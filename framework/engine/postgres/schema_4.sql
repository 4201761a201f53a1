-- Version 4.

-- Which services declare which queues: what each said last, and when; seen is 0 once it has stopped in good order.
create table {schema}.service (name text collate "C" primary key, said text not null, seen double precision not null);

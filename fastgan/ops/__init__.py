"""Every op: its schema, checks, fake, autograd. A call goes on to the module that `backends.pick` names."""

"""Commands that have a model look at pictures: to speak of them, to find things in them, to be measured."""

"""Who is on the LAN: adverts over mDNS (hints) and the table of peers that beats keep (the truth)."""
